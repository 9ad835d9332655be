"""The whole preprocessing, on synthetic and on real spectra."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, RejectedInput
from jaxmdwarf.preprocess.batch import preprocess_batch, preprocess_stream
from jaxmdwarf.preprocess.continuum import normalise
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.preprocess.resample import require_overlap
from jaxmdwarf.spectra import RawSpectrum, SpectrumBatch, SpectrumMeta
from jaxmdwarf.wavelengths import PAPER_GRID

WAVE = 10 ** (3.5682 + 1e-4 * np.arange(3909))


def raw_spectrum(seed, path=""):
    rng = np.random.default_rng(seed)
    flux = (WAVE / 7000.0) ** 3 * (1 + 0.2 * np.sin(WAVE / 7.0)) * 300 + rng.normal(size=WAVE.size)
    ivar = np.where(rng.random(WAVE.size) < 0.01, 0.0, 1.0)
    return RawSpectrum(WAVE, np.where(ivar > 0, flux, 0.0), ivar, SpectrumMeta(path=path))


def test_padding_changes_nothing():
    raws = [raw_spectrum(seed) for seed in range(3)]
    plain, padded = preprocess_batch(raws), preprocess_batch(raws, pad_to=8)
    for one, other in zip(
        (plain.flux, plain.ivar, plain.information),
        (padded.flux, padded.ivar, padded.information),
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(other)[:3], one, rtol=2e-6, atol=1e-6)
    assert not np.asarray(padded.ivar)[3:].any()
    np.testing.assert_array_equal(np.asarray(padded.flux)[3:], 1.0)
    with pytest.raises(MismatchError, match="batch of 2"):
        preprocess_batch(raws, pad_to=2)


def test_masks_are_masked_and_the_scale_of_the_flux_is_forgotten():
    raw = raw_spectrum(1)
    brighter = RawSpectrum(raw.wave_aa, raw.flux * 1e-13, raw.ivar * 1e26)
    batch = preprocess_batch([raw, brighter])
    masked = mask_for(PAPER_GRID, PAPER_MASKS_AA)
    flux, ivar = np.asarray(batch.flux), np.asarray(batch.ivar)
    assert not ivar[:, masked].any()
    assert (ivar[0, ~masked] > 0).mean() > 0.97
    np.testing.assert_allclose(flux[0], flux[1], rtol=1e-5)
    np.testing.assert_allclose(ivar[0], ivar[1], rtol=1e-4)
    flat = preprocess_batch([raw], sigma_aa=None, masks=())
    again = normalise(SpectrumBatch(flat.flux, flat.ivar, flat.information, PAPER_GRID))
    plain = preprocess_batch([raw], masks=())
    np.testing.assert_allclose(again.flux, plain.flux, rtol=1e-5)


def test_the_stream_holds_every_spectrum_once_and_rejects_with_a_reason():
    raws = [raw_spectrum(seed, path=f"{seed}.fits") for seed in range(11)]
    blue = WAVE < 6500.0
    raws[4] = RawSpectrum(WAVE[blue], raws[4].flux[blue], raws[4].ivar[blue], raws[4].meta)
    rejected = []
    batches = list(
        preprocess_stream(
            iter(raws),
            batch_size=4,
            velocity_of=lambda raw: 20.0,
            on_reject=lambda raw, reason: rejected.append((raw.meta.path, str(reason))),
        )
    )
    kept = [raw.meta.path for part in batches for raw in part.raws]
    assert kept == [f"{seed}.fits" for seed in range(11) if seed != 4]
    assert len(rejected) == 1
    assert rejected[0][0] == "4.fits"
    assert "cover" in rejected[0][1]
    assert {part.batch.flux.shape for part in batches} == {(4, 2901)}
    assert [len(part.raws) for part in batches] == [4, 3, 3]
    alone = preprocess_batch([raws[5]], rv_kms=20.0)
    flux = np.asarray(batches[1].batch.flux)
    np.testing.assert_allclose(flux[0], np.asarray(alone.flux)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(RejectedInput, match=r"4\.fits"):
        preprocess_batch([raws[3], raws[4]])


def test_real_spectra_come_out_finite_and_near_one(real_data):
    from jaxmdwarf.io.spectra.readers import read_spectrum

    paths = sorted((real_data / "lamost").glob("*.fits.gz"))
    raws = []
    for path in paths:
        try:
            raw = read_spectrum(path)
            require_overlap(raw, PAPER_GRID)
            raws.append(raw)
        except RejectedInput:
            continue
    assert len(raws) >= 18
    batch = preprocess_batch(raws)
    flux, ivar = np.asarray(batch.flux), np.asarray(batch.ivar)
    assert np.isfinite(flux).all()
    assert np.isfinite(ivar).all()
    level = np.where(ivar > 0, flux, 0).sum(axis=1) / (ivar > 0).sum(axis=1)
    np.testing.assert_allclose(level, 1.0, atol=0.03)
