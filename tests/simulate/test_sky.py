"""Telluric absorption looks like that of the atmosphere."""

import numpy as np

from jaxmdwarf.simulate.sky import TELLURIC_BANDS, telluric_depth


def test_telluric_bands_look_like_the_atmosphere():
    depth = {
        name: telluric_depth(np.arange(*bounds, 0.5)) for name, bounds in TELLURIC_BANDS.items()
    }
    assert depth["O2 A"].max() > 2.5 * depth["O2 B"].max() > 5 * depth["O2 gamma"].max()
    # The A band has its sharp head on the blue side and fades to the red.
    wave = np.arange(*TELLURIC_BANDS["O2 A"], 0.5)
    assert wave[np.argmax(depth["O2 A"])] < 7612
    assert telluric_depth(np.array([7700.0]))[0] < 0.05
