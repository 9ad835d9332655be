"""Telluric absorption looks like that of the atmosphere; the sky stands still in its own frame."""

import numpy as np

from jaxmdwarf.simulate.instrument import NATIVE_GRID
from jaxmdwarf.simulate.observation import _noise_of
from jaxmdwarf.simulate.sky import TELLURIC_BANDS, telluric_depth
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS


def test_telluric_bands_look_like_the_atmosphere():
    depth = {
        name: telluric_depth(np.arange(*bounds, 0.5)) for name, bounds in TELLURIC_BANDS.items()
    }
    assert depth["O2 A"].max() > 2.5 * depth["O2 B"].max() > 5 * depth["O2 gamma"].max()
    # The A band has its sharp head on the blue side and fades to the red.
    wave = np.arange(*TELLURIC_BANDS["O2 A"], 0.5)
    assert wave[np.argmax(depth["O2 A"])] < 7612
    assert telluric_depth(np.array([7700.0]))[0] < 0.05


def test_sky_lines_lie_redder_in_spectra_of_an_approaching_observatory(make_visits):
    # An observatory that moves towards the star by two pixels: its wavelengths are stretched so.
    helio_kms = SPEED_OF_LIGHT_KMS * np.expm1(2 * NATIVE_GRID.step) * np.array([0.0, 1.0])
    dark = np.zeros((2, NATIVE_GRID.n_pix), np.float32)
    still, moved = _noise_of(dark, make_visits(2, helio_kms=helio_kms))
    lines = still - np.median(still)
    agreement = [np.corrcoef(lines[10:-10], np.roll(moved, -by)[10:-10])[0, 1] for by in (2, -2)]
    assert agreement[0] > 0.98
    assert agreement[1] < 0.8
