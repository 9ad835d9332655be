"""A covariance of fits: log g goes with Teff and [M/H], [alpha/M] with the latter."""

import numpy as np

from jaxmdwarf.labels import LabelSpace

SPACE = LabelSpace.mdwarf()
WIDTH = np.subtract(SPACE.upper, SPACE.lower)
TURN = np.array([[1.0, 0, 0, 0], [2e-3, 0.1, 0.4, 0], [0, 0, 1.0, 0], [0, 0, -0.5, 0.05]])
"""Spectra take log g along by 0.002 a kelvin and 0.4 a dex, [alpha/M] by -0.5 a dex."""
COVARIANCE = TURN @ np.diag(np.square([40.0, 1.0, 0.07, 1.0])) @ TURN.T
