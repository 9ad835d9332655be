"""Records as readers make them: what they must offer, at the limits, and what they are known by."""

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    LogGrid,
    Requirements,
    SpectrumRecord,
    check_record,
    expand_log_grid,
    number_or_nan,
    text_or_empty,
    whole_or_none,
)

WINDOW = Requirements(window_aa=(6000.0, 7000.0), min_overlap=0.5, min_good_fraction=0.2)


def record(wave, ivar=None, *, flux=None, **about):
    wave = np.asarray(wave, float) if not isinstance(wave, LogGrid) else wave
    n = wave.n_pix if isinstance(wave, LogGrid) else wave.size
    ivar = np.full(n, 4.0) if ivar is None else np.asarray(ivar, float)
    flux = np.ones(n) if flux is None else flux
    return SpectrumRecord(wave, flux, ivar, dict(NO_HEADER), **about)


def refused(one, words, requirements=WINDOW):
    with pytest.raises(RejectedInput, match=words):
        check_record(one, requirements)


def test_half_of_the_window_is_enough_and_less_is_told():
    check_record(record(np.arange(6000.0, 6501.0)), WINDOW)
    check_record(record(np.arange(6500.0, 9001.0)), WINDOW)
    refused(record(np.arange(6000.0, 6500.0)), r"covers 6000-6499 A, which is 50 % of 6000-7000")
    refused(record(np.arange(6501.0, 7101.0)), "covers 6501-7100 A")
    refused(record(np.arange(3000.0, 5000.0)), "which is 0 % of", WINDOW)
    refused(record(np.arange(3000.0, 5000.0), what="the blue arm"), "the blue arm covers 3000")
    check_record(record(np.arange(3000.0, 5000.0)))  # nothing is asked of it


def test_gaps_between_arms_are_not_covered():
    """More than twenty times the usual step."""
    whole = np.arange(6000.0, 7001.0)
    for n_lost, enough in ((400, True), (600, False)):
        one = record(np.delete(whole, np.arange(200, 200 + n_lost)))
        if enough:
            check_record(one, WINDOW)
        else:
            refused(one, "which is 40 % of")
    # Many small gaps are steps.
    sparse = np.concatenate([np.arange(a, a + 30.0) for a in range(6000, 7000, 49)])
    check_record(record(sparse), Requirements(WINDOW.window_aa, 0.97, 0.2))
    wider = np.concatenate([np.arange(a, a + 30.0) for a in range(6000, 7000, 51)])
    refused(record(wider), "% of 6000-7000", Requirements(WINDOW.window_aa, 0.97, 0.2))


def test_a_fifth_of_the_pixels_of_the_window_must_be_good():
    wave = np.arange(5000.0, 8000.0)
    inside = np.flatnonzero((wave >= 6000) & (wave < 7000))
    for n_good, enough in ((200, True), (199, False)):
        ivar = np.where((wave < 6000) | (wave > 7000), 4.0, 0.0)
        ivar[inside[:n_good]] = 1.0
        if enough:
            check_record(record(wave, ivar), WINDOW)
        else:
            refused(record(wave, ivar), "only 20 % of the pixels in 6000-7000 A are good")


def test_what_is_no_spectrum_is_refused():
    wave = np.arange(6000.0, 7001.0)
    refused(record(wave, 0 * wave), r"no good pixel: ivar is 0 or negative in every pixel")
    refused(record(wave, 0 * wave, why_empty="all is masked"), "no good pixel: all is masked")
    refused(record(wave[:1]), "wavelengths are missing")
    for place, wrong in ((0, -1.0), (0, 0.0), (5, np.nan), (-1, np.inf)):
        bad = wave.copy()
        bad[place] = wrong
        refused(record(bad), "missing or not positive")
    refused(record(np.r_[wave, wave[-1]]), "unsorted or repeated")
    refused(record(wave, wave[:-1]), "have shapes")
    refused(record(wave, flux=np.ones((2, 3))), "have shapes")
    refused(record(LogGrid(3.8, 1e-4, 1)), "wavelengths are missing", None)
    check_record(record(LogGrid(3.77, 1e-4, 2000)), WINDOW)


def test_contents_are_told_apart_by_identifier_flux_and_ivar():
    wave = np.arange(6000.0, 6010.0)
    one = record(wave)
    others = [
        record(wave + 1),  # wavelengths are not hashed
        record(wave, flux=np.full(10, 2.0)),
        record(wave, np.full(10, 5.0)),
        SpectrumRecord(one.pixels, one.flux, one.ivar, {**one.meta, "obsid": "7"}),
        SpectrumRecord(one.pixels, one.flux, one.ivar, one.meta, known_hash=7),
    ]
    hashes = [other.content_hash() for other in others]
    assert hashes[0] == one.content_hash()
    assert hashes[4] == 7
    assert len({one.content_hash(), *hashes[1:]}) == 5
    assert all(-(2**63) <= value < 2**63 for value in hashes)


def test_values_of_headers_are_numbers_or_nothing():
    for value in (-9000.0, -9999, float("inf"), float("nan"), "x", None, [1, 2], 10**400):
        assert np.isnan(number_or_nan(value))
    assert [number_or_nan(value) for value in (-8999.5, "1e3", 0, True)] == [-8999.5, 1e3, 0, 1]
    assert [whole_or_none(value) for value in ("12.0", 1.5, None, "a")] == [12, None, None, None]
    assert [text_or_empty(value) for value in (" a b ", None, [1], 7)] == ["a b", "", "", "7"]


def test_grids_are_shared_and_read_only():
    wave = expand_log_grid(LogGrid(3.7, 2e-4, 5))
    np.testing.assert_allclose(np.log10(wave), 3.7 + 2e-4 * np.arange(5), rtol=1e-14)
    assert expand_log_grid(LogGrid(3.7, 2e-4, 5)) is wave
    with pytest.raises(ValueError, match="read-only"):
        wave[0] = 1.0
    assert record(LogGrid(3.7, 2e-4, 5)).wave_aa is wave


def test_readers_name_fields_of_headers_that_there_are():
    with pytest.raises(UsageError, match="'snr' is no field"):
        SpectrumRecord.from_arrays("a", [1.0, 2.0], [1.0, 1.0], 4.0, snr=3)
    with pytest.raises(RejectedInput):
        SpectrumRecord.from_arrays("a", [1.0, 2.0], [1.0, 1.0])  # no errors
    one = SpectrumRecord.from_arrays("a", [7001.0, 7002.0], [1.0, np.nan], 4.0, z=1e-4)
    assert one.meta["had_nonfinite"] is True
    assert (one.meta["path"], one.meta["z"], one.meta["obsid"]) == ("a", 1e-4, "")
    assert one.ivar.tolist() == [4.0, 0.0]
