"""Each published format is read back: wavelengths, flux units, labels, compression."""

import gzip

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids.names import GridLabels, parse_name
from jaxmdwarf.io.grids.native import WaveRange
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.wavelengths import air_to_vacuum, vacuum_to_air

from .conftest import (
    COMPRESS,
    btsettl_fits_hdus,
    fortran_d,
    model_flux,
    spec7_bytes,
    svo_bytes,
    write_aces,
)

WAVE = np.arange(6900.0, 7100.0, 0.5)
FLUX = model_flux(WAVE)
SPEC7 = "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7"


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("lte030.0-4.5-0.0a+0.0.BT-Settl.spec.7", (3000, 4.5, 0.0, 0.0)),
        ("lte028-5.5-1.5a+0.4.BT-Settl.spec.7.bz2", (2800, 5.5, -1.5, 0.4)),
        ("lte036.0-5.0+0.5a-0.2.BT-Settl.spec.7.xz", (3600, 5.0, 0.5, -0.2)),
        ("lte012.5-0.0+0.0a+0.0.BT-Settl.spec.fits.gz", (1250, 0.0, 0.0, 0.0)),
        ("lte040+0.5-0.0.BT-NextGen.7.dat.txt", (4000, -0.5, 0.0, 0.0)),
        ("lte02300-5.00-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits", (2300, 5.0, 0.0, 0.0)),
        (
            "lte03900-4.50-1.0.Alpha=+0.40.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits",
            (3900, 4.5, -1.0, 0.4),
        ),
        ("lte1300-3.00-0.0a+0.0.BT-settl-giant-2013.cf250.spid.fits", (1300, 3.0, 0.0, 0.0)),
        ("some/folder/lte030-5.0-0.5a0.2.BT-Settl.spec.7", (3000, 5.0, -0.5, 0.2)),
    ],
)
def test_names_tell_labels(name, labels):
    assert parse_name(name) == GridLabels(*map(float, labels))


@pytest.mark.parametrize("name", ["spectrum.txt", "lte.BT-Settl.spec.7", "lte030-5.0.spec.7", ""])
def test_names_without_labels_are_rejected(name):
    with pytest.raises(RejectedInput, match="no labels"):
        parse_name(name)


def test_fortran_writer_of_these_tests_does_as_fortran():
    assert fortran_d(-10.62337, 12, 5) == "-1.06234D+01"
    assert fortran_d(6.1234, 12, 5) == " 6.12340D+00"
    assert fortran_d(1e-123, 12, 5) == "1.00000-123".rjust(12)


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("style", ["fixed", "exponent"])
def test_btsettl_text(tmp_path, ending, style):
    path = tmp_path / (SPEC7 + ending)
    path.write_bytes(COMPRESS[ending](spec7_bytes(WAVE, FLUX, style=style)))
    native = read_native(path)
    np.testing.assert_allclose(native.wave_aa, WAVE, rtol=1e-7)
    np.testing.assert_allclose(native.flux, FLUX, rtol=3e-4)
    assert native.labels == GridLabels(3000.0, 5.0, -0.5, 0.2)


def test_btsettl_text_with_glued_columns(tmp_path):
    text = spec7_bytes(WAVE, FLUX, style="glued")
    first = text.splitlines()[0].decode()
    assert "-" in first[12:14]
    assert len(first.split()[0]) > 20, "columns should touch in this test"
    path = tmp_path / SPEC7
    path.write_bytes(text)
    native = read_native(path)
    np.testing.assert_allclose(native.wave_aa, WAVE, rtol=1e-8)
    np.testing.assert_allclose(native.flux, FLUX * 1e-28, rtol=3e-3)


def test_btsettl_text_glued_exponents_and_three_digits(tmp_path):
    lines = [f"{fortran_d(x, 13, 7).strip()}{fortran_d(-2.0, 12, 5)}-4.0D+00" for x in WAVE] + [
        "7.0012500D+03-1.00000+102-4.0D+00"
    ]
    path = tmp_path / SPEC7
    path.write_text("\n".join(lines) + "\n")
    native = read_native(path)
    assert native.wave_aa.size == WAVE.size + 1
    at = np.searchsorted(native.wave_aa, 7001.25)
    assert native.flux[at] == 0.0
    np.testing.assert_allclose(np.delete(native.flux, at), 1e-10)


def test_svo_text(tmp_path):
    path = tmp_path / "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7.dat.txt"
    path.write_bytes(svo_bytes(WAVE, FLUX))
    native = read_native(path)
    np.testing.assert_allclose(native.wave_aa, WAVE)
    np.testing.assert_allclose(native.flux, FLUX, rtol=1e-5)
    assert native.labels == GridLabels(3000.0, 5.0, -0.5, 0.2)
    assert native.layout == "svo-text"
    renamed = tmp_path / "model1.dat"
    renamed.write_bytes(svo_bytes(WAVE, FLUX, teff=3100, logg=4.5, meta=0, alpha=0))
    assert read_native(renamed).labels == GridLabels(3100.0, 4.5, 0.0, 0.0)


def test_btsettl_fits(tmp_path):
    path = tmp_path / "lte030.0-5.0-0.0a+0.0.BT-Settl.spec.fits.gz"
    repeated = np.repeat(WAVE, 2)
    btsettl_fits_hdus(repeated, model_flux(repeated)).writeto(path)
    assert gzip.decompress(path.read_bytes()).startswith(b"SIMPLE")
    native = read_native(path)
    np.testing.assert_allclose(native.wave_aa, WAVE, rtol=1e-12)
    np.testing.assert_allclose(native.flux, FLUX, rtol=1e-9)
    assert native.labels == GridLabels(3000.0, 5.0, 0.0, 0.0)
    keys = {"PHXTEFF": 2950.0, "PHXLOGG": 5.25, "PHXM_H": -0.3, "PHXALPHA": 0.1}
    named = tmp_path / "anything.fits"
    btsettl_fits_hdus(WAVE, FLUX, keys=keys).writeto(named)
    native = read_native(named)
    assert native.labels == GridLabels(2950.0, 5.25, -0.3, 0.1)
    assert native.layout == "btsettl-fits"


@pytest.mark.parametrize("below", [False, True])
def test_phoenix_aces(tmp_path, below):
    path = write_aces(tmp_path / "Z-1.0", WAVE, FLUX, teff=3200, mh=-1.0, alpha=0.2, below=below)
    native = read_native(path)
    np.testing.assert_array_equal(native.wave_aa, WAVE)
    np.testing.assert_allclose(native.flux, FLUX, rtol=1e-6)
    assert native.labels == GridLabels(3200.0, 5.0, -1.0, 0.2)
    assert native.layout == "phoenix-aces"


def test_phoenix_aces_without_its_wave_file(tmp_path):
    path = write_aces(tmp_path / "a" / "b" / "c" / "d" / "e", WAVE, FLUX)
    (path.parent / "WAVE_PHOENIX-ACES-AGSS-COND-2011.fits").unlink()
    with pytest.raises(RejectedInput, match="WAVE_PHOENIX"):
        read_native(path)


def test_air_can_be_declared_and_the_range_is_kept(tmp_path):
    path = tmp_path / "lte030.0-5.0-0.5a+0.2.txt"
    path.write_bytes(svo_bytes(vacuum_to_air(WAVE), FLUX))
    native = read_native(path, air=True)
    np.testing.assert_allclose(native.wave_aa, WAVE, atol=1e-5)
    shifted = read_native(path)
    np.testing.assert_allclose(air_to_vacuum(shifted.wave_aa), WAVE, atol=1e-5)
    part = read_native(path, air=True, wanted=WaveRange(6950.0, 7050.0))
    assert 6950.0 <= part.wave_aa[0] < 6950.6
    assert 7049.4 < part.wave_aa[-1] <= 7050.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello world\n" * 50, "no known"),
        (gzip.compress(b"x" * 5000)[:25], "decompression"),
        (b"\x00" * 4000, "no known"),
        (b"# teff = 3000 K\n# logg = 5\n# meta = 0\n 7000 abc\n", "columns of numbers"),
        (b"# teff = 3000 K\n# logg = 5\n# meta = 0\n 7000 1\n", "usable samples"),
        (b"SIMPLE  =                    T" + b" " * 3000, "no known"),
    ],
)
def test_broken_files_are_rejected_with_a_reason(tmp_path, content, reason):
    path = tmp_path / SPEC7
    path.write_bytes(content)
    with pytest.raises(RejectedInput, match=reason):
        read_native(path)
    with pytest.raises(RejectedInput, match="unreadable"):
        read_native(tmp_path)
