"""What no spectrum and no grid of pixels can be is refused when it is made."""

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.spectra import RawSpectrum
from jaxmdwarf.wavelengths import PixelGrid

WAVE = np.array([6000.0, 6001.0, 6002.0, 6003.0])
GOOD = {"wave_aa": WAVE, "flux": np.array([1.0, 2.0, 1.0, 2.0]), "ivar": np.full(4, 9.0)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flux": np.array([1.0, np.nan, 1.0, 2.0])}, "not finite"),
        ({"flux": np.array([1.0, np.inf, 1.0, 2.0])}, "not finite"),
        ({"ivar": np.array([9.0, 9.0, np.nan, 9.0])}, "not finite"),
        ({"ivar": np.array([9.0, 9.0, np.inf, 9.0])}, "not finite"),
        ({"ivar": np.array([9.0, -1.0, 9.0, 9.0])}, "negative"),
        ({"ivar": np.zeros(4)}, "every pixel has ivar 0"),
        ({"wave_aa": WAVE[::-1]}, "unsorted or repeated"),
        ({"wave_aa": np.array([6000.0, 6001.0, 6001.0, 6003.0])}, "unsorted or repeated"),
        ({"flux": np.ones(3)}, "have shapes"),
        ({name: values[:, None] for name, values in GOOD.items()}, "have shapes"),
    ],
)
def test_what_is_no_spectrum_is_refused(change, reason):
    RawSpectrum(**GOOD)
    with pytest.raises(RejectedInput, match=reason):
        RawSpectrum(**{**GOOD, **change})


def test_one_good_pixel_makes_a_spectrum():
    assert RawSpectrum(**{**GOOD, "ivar": np.array([0.0, 0.0, 4.0, 0.0])}).ivar.sum() == 4.0


@pytest.mark.parametrize(
    "about",
    [
        ("linear", 0.0, 1.0, 10),
        ("linear", -1.0, 1.0, 10),
        ("log", 6000.0, 0.0, 10),
        ("linear", 6000.0, 1.0, 1),
    ],
)
def test_what_is_no_grid_is_refused(about):
    assert PixelGrid("linear", 1e-3, 1e-3, 2).n_pix == 2
    with pytest.raises(UsageError, match="pixel grid"):
        PixelGrid(*about)
