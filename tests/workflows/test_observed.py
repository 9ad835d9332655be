"""Which spectra a transfer learns from, before any of them is read, and which it refuses."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumMeta
from jaxmdwarf.workflows import observed
from jaxmdwarf.workflows.observed import ObservedConfig


def test_as_many_as_are_asked_for_are_drawn_and_the_others_told():
    names = [f"{number}.fits" for number in range(40)]
    used, left = observed._choose(list(range(40)), names, ObservedConfig(max_spectra=15, seed=3))
    assert len(used) == 15
    assert used == sorted(used)
    assert sorted([*used, *(int(one.path.split(".")[0]) for one in left)]) == list(range(40))
    assert left[0].reason == "not among the 15 spectra that were chosen for training"
    others, _ = observed._choose(list(range(40)), names, ObservedConfig(max_spectra=15, seed=4))
    assert others != used
    again, _ = observed._choose(list(range(40)), names, ObservedConfig(max_spectra=15, seed=3))
    assert again == used
    # Which are chosen is a matter of chance for all.
    counts = np.zeros(40)
    for seed in range(200):
        counts += observed._draw(40, ObservedConfig(max_spectra=10, seed=seed))
    assert counts.sum() == 2000
    assert 25 < counts.min() < counts.max() < 80
    for limit in (None, 40, 41):
        assert observed._draw(40, ObservedConfig(max_spectra=limit)).all()


def test_spectra_of_packs_are_drawn_one_by_one(monkeypatch):
    part = PackPart("s.zarr", "5f", 100, 130)
    places = [(f"old{row}.fits", row % 3) for row in range(30)]
    monkeypatch.setattr(observed, "read_places", lambda path: places)
    options = ObservedConfig(max_spectra=12, seed=1)
    used, left = observed._choose_inputs(["a.fits", part, "b.fits"], options)
    parts = [one for one in used if isinstance(one, PackPart)]
    files = [one for one in used if not isinstance(one, PackPart)]
    chosen = observed._draw(32, options)
    assert files == [name for name, at in (("a.fits", 0), ("b.fits", 31)) if chosen[at]]
    assert list(parts[0].rows) == (100 + np.flatnonzero(chosen[1:31])).tolist()
    expected = {("a.fits", None), ("b.fits", None), *places}
    kept = {(name, None) for name in files} | {places[row - 100] for row in parts[0].rows}
    assert {(one.path, one.spectrum) for one in left} == expected - kept
    whole, none = observed._choose_inputs(["a.fits", part], ObservedConfig(max_spectra=31))
    assert (whole, none) == (["a.fits", part], [])


@pytest.mark.parametrize(
    ("teff", "rv_kms", "flags", "reason"),
    [
        (4300.0, 10.0, 0, None),
        (4300.5, 10.0, 0, "fitted Teff 4300 K is above 4300 K"),
        (3500.0, np.nan, 0, "no velocity was found"),
        (np.nan, 10.0, 0, "fitted Teff nan K is above 4300 K"),
        (3500.0, 10.0, int(QualityFlag.NO_GOOD_PIXELS), "every pixel is masked"),
        (3500.0, 10.0, int(QualityFlag.INPUT_NAN), None),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_reason(teff, rv_kms, flags, reason):
    columns = np.array([[4.9, 9.9], [4.8, teff]])
    # What stands in for a fit is none: the function without the check of its annotations.
    refuse = inspect.unwrap(observed._refuse)
    fitted = SimpleNamespace(
        result=SimpleNamespace(rv_kms=np.array([5.0, rv_kms]), labels=columns),
        label_names=("logg", "teff"),
    )
    told = refuse(fitted, 1, flags, ObservedConfig())
    assert (None if told is None else told[0]) == reason
    if reason is not None and "Teff" in reason:
        assert refuse(fitted, 1, flags, ObservedConfig(max_teff=None)) is None


def test_spectra_of_the_user_have_a_name():
    def raw(**meta):
        ones = np.ones(3)
        return RawSpectrum(6000 + np.arange(3.0), ones, ones, SpectrumMeta(**meta))

    named = [
        observed._name_spectrum(one, 7).meta.path
        for one in (raw(path="a.fits", obsid="9"), raw(obsid="9"), raw())
    ]
    assert named == ["a.fits", "9", "spectrum 7"]


def test_observed_spectra_are_fitted_without_clipping_and_drift():
    """What theory lacks is to be learned, and looks like outliers to it."""
    options = ObservedConfig(velocity="header", min_snr=7.0, chunk_size=99)
    config = options.fit_config()
    assert (config.velocity, config.min_snr, config.chunk_size) == ("header", 7.0, 99)
    assert config.clip_sigma == 0
    assert config.wavelength_drift is False
    assert (config.solver, config.schedule) == (options.solver, options.schedule)
