"""Survey files of stars with known spectra, which tests of several pipelines read."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxmdwarf.io.spectra.lamost_writer import LamostHeader, write_lamost_files
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS
from jaxmdwarf.workflows import outputs

LOG10_STEP = 1e-4


def _write_stars(
    folder: Path,
    grid,
    rest,
    rv_kms,
    snr,
    rng,
    *,
    log10_start: float,
    n_pix: int,
    bad: slice = slice(0),
    snr_r=50.0,
    first: int = 0,
    n_digit: int = 3,
) -> None:
    """One file ``star-NNN.fits.gz`` a star: moved, with a continuum, noise, and pixels masked.

    Numbers go on from `first`, so that a large survey can be written in parts.
    """
    wave = 10 ** (log10_start + LOG10_STEP * np.arange(n_pix))
    clean = np.stack(
        [
            np.interp(wave / (1 + speed / SPEED_OF_LIGHT_KMS), grid.wave_aa, row, left=1, right=1)
            for row, speed in zip(rest, rv_kms, strict=True)
        ]
    ) * (500 * (wave / 6500.0) ** 2)
    snr = np.broadcast_to(snr, len(rest))[:, None]
    flux = clean * (1 + rng.normal(size=clean.shape) / snr)
    ivar = (snr / clean) ** 2
    ivar[:, bad] = 0
    headers = [
        LamostHeader(
            obsid=1000 + row,
            file_name=f"star-{row:0{n_digit}d}.fits.gz",
            plan_id="TEST",
            ra_deg=150.0 + 0.01 * row,
            dec_deg=20.0,
            lmjd=58000,
            spectrograph=1,
            fibre=1,
            exposure_s=1800.0,
            helio_kms=0.0,
            subclass="M1",
            z=float(np.round(speed / SPEED_OF_LIGHT_KMS, 8)),
            snr_r=float(band),
            snr_i=60.0,
        )
        for row, (speed, band) in enumerate(
            zip(rv_kms, np.broadcast_to(snr_r, len(rest)), strict=True), first
        )
    ]
    write_lamost_files(
        folder,
        flux.astype(np.float32),
        ivar.astype(np.float32),
        np.zeros(flux.shape, np.int32),
        headers,
        layouts=["lamost-wavelength"] * len(rest),
        log10_start=log10_start,
        log10_step=LOG10_STEP,
    )


@pytest.fixture(scope="session")
def write_stars():
    """Writes the files of a survey into a folder."""
    return _write_stars


@pytest.fixture
def full_disk(monkeypatch):
    """1 kB is free, wherever it is asked."""
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
