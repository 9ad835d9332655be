"""Damaged files: a reason, never another error, whatever bytes were changed.

A few hundred files by default; JAXMDWARF_FUZZ=100000 tries as many as it says.
"""

import bz2
import gzip
import os
import random

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import ReadTask
from jaxmdwarf.io.spectra.records import Requirements
from tests.io.grids.conftest import btsettl_fits_hdus, spec7_bytes, svo_bytes, write_aces
from tests.io.spectra.conftest import write_desi, write_mrs, write_mwm

N_FILE = int(os.environ.get("JAXMDWARF_FUZZ", "150"))
VALUES = (
    "2147483647", "-2147483648", "99999999999999999999", "-1", "0", "1", "3", "8", "-32", "1.5",
    "1E400", "NaN", "T", "F", "''", "'abc'",
)  # fmt: skip


def damage(content, rng):
    """A copy of the bytes with something wrong: a card, bytes, a hole, a missing part, an end."""
    data = bytearray(content)
    kind = rng.random()
    cards = [at for at in range(0, min(len(data), 40_000), 80) if data[at + 8 : at + 10] == b"= "]
    if kind < 0.5 and cards:
        for at in rng.sample(cards, min(len(cards), rng.randint(1, 2))):
            data[at + 10 : at + 80] = rng.choice(VALUES).rjust(20).ljust(70).encode()
    elif kind < 0.7:
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.8:
        del data[rng.randrange(len(data)) :]
    elif kind < 0.9:
        at, length = rng.randrange(len(data)), rng.randint(1, 5_000)
        data[at : at + length] = bytes(length)
    else:
        at = rng.randrange(0, len(data), 80)
        del data[at : at + 80 * rng.randint(1, 40)]
    if rng.random() < 0.2:
        pack = rng.choice((gzip.compress, bz2.compress))
        return pack(bytes(data))[: rng.choice((None, -1, -10))]
    return bytes(data)


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    from tests.io.conftest import LAYOUTS, write

    folder = tmp_path_factory.mktemp("whole")
    paths = [write(folder / f"{layout}.fits", layout) for layout in LAYOUTS]
    arms = {"R": (6000.0, 6400.0), "Z": (6380.0, 6900.0)}
    paths.append(write_desi(folder / "desi.fits", 2, arms=arms))
    paths.append(write_mwm(folder / "star.fits", (1, 0, 1, 0)))
    paths.append(write_mwm(folder / "visits.fits", (2, 0, 0, 0), visits=True))
    paths.append(write_mrs(folder / "mrs.fits"))
    return [path.read_bytes() for path in paths]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    wave = np.arange(6900.0, 7100.0, 0.5)
    flux = np.full(wave.size, 3e5)
    name = "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7"
    btsettl_fits_hdus(wave, flux).writeto(folder / "a.fits")
    aces = write_aces(folder, wave, flux)
    texts = [spec7_bytes(wave, flux), svo_bytes(wave, flux), (folder / "a.fits").read_bytes()]
    return [(name, text) for text in texts] + [(aces.name, aces.read_bytes())], folder


def test_damaged_spectra_have_a_reason(spectra, tmp_path):
    pytest.importorskip("specutils")
    rng, task = random.Random(11), ReadTask(Requirements())
    path = tmp_path / "a.fits"
    n_refused = 0
    for _ in range(N_FILE):
        path.write_bytes(damage(rng.choice(spectra), rng))
        try:
            found = task(str(path))
        except RejectedInput as error:
            found = [Reject.from_error(path, error)]
        for one in found:
            if isinstance(one, Reject):
                n_refused += 1
                assert one.reason
                assert one.remedy
                assert "\n" not in one.reason + one.remedy
            else:
                assert np.isfinite(one.record.flux).all()
                assert (one.record.ivar >= 0).all()
                assert (np.diff(one.record.wave_aa) > 0).all()
    assert n_refused > N_FILE / 4


def test_damaged_models_have_a_reason(models, tmp_path):
    whole, folder = models
    rng = random.Random(12)
    n_read = n_refused = 0
    for _ in range(N_FILE):
        name, content = rng.choice(whole)
        path = folder / name if "PHOENIX" in name else tmp_path / name
        path.write_bytes(damage(content, rng))
        try:
            native = read_native(path)
        except RejectedInput as error:
            n_refused += bool(error.remedy) and "\n" not in str(error)
        else:
            n_read += 1
            assert np.isfinite(native.flux).all()
            assert (np.diff(native.wave_aa) > 0).all()
    assert n_read + n_refused == N_FILE
    assert n_refused > N_FILE / 10
