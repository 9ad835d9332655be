"""Each published format is read back: wavelengths, flux units, labels, compression."""

import gzip
import sys

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.grids import list_grid_readers, register_grid_reader, unregister_grid_reader
from jaxmdwarf.io.grids.names import GridLabels, parse_name
from jaxmdwarf.io.grids.native import WaveRange, black_body_flux
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.stream import stream_results
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


UV = np.arange(2900.0, 3100.0, 0.5)
"""Where cool models are so faint that columns touch, and no black body is to be compared with."""


def test_btsettl_text_with_glued_columns(tmp_path):
    text = spec7_bytes(UV, model_flux(UV), style="glued")
    first = text.splitlines()[0].decode()
    assert "-" in first[12:14]
    assert len(first.split()[0]) > 20, "columns should touch in this test"
    path = tmp_path / SPEC7
    path.write_bytes(text)
    native = read_native(path)
    np.testing.assert_allclose(native.wave_aa, UV, rtol=1e-8)
    np.testing.assert_allclose(native.flux, model_flux(UV) * 1e-28, rtol=3e-3)


def test_btsettl_text_glued_exponents_and_three_digits(tmp_path):
    lines = [f"{fortran_d(x, 13, 7).strip()}{fortran_d(-2.0, 12, 5)}-4.0D+00" for x in UV] + [
        "3.0012500D+03-1.00000+102-4.0D+00"
    ]
    path = tmp_path / SPEC7
    path.write_text("\n".join(lines) + "\n")
    native = read_native(path)
    assert native.wave_aa.size == UV.size + 1
    at = np.searchsorted(native.wave_aa, 3001.25)
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
    # Neither header nor name tells of alpha elements: those of the Sun.
    lines = svo_bytes(WAVE, FLUX, teff=3100, logg=4.5, meta=-0.5, alpha=0.2).splitlines(True)
    renamed.write_bytes(b"".join(line for line in lines if b"alpha" not in line))
    assert read_native(renamed).labels == GridLabels(3100.0, 4.5, -0.5, 0.0)


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


@pytest.mark.parametrize(
    ("unit", "aa_in_unit"),
    [
        ("micron", 1e-4),
        ("Microns", 1e-4),
        ("Angstrom", 1.0),
        ("AA", 1.0),
        ("nm", 0.1),
        (None, 1e-4),
        (None, 1.0),
    ],
)
def test_btsettl_fits_in_other_units_of_length(tmp_path, unit, aa_in_unit):
    path = tmp_path / "lte030.0-5.0-0.0a+0.0.BT-Settl.spec.fits"
    btsettl_fits_hdus(WAVE, FLUX, unit=unit, aa_in_unit=aa_in_unit).writeto(path)
    np.testing.assert_allclose(read_native(path).wave_aa, WAVE, rtol=1e-12)


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
        (b"", "zero bytes"),
        (b"hello world\n" * 50, "no known"),
        (gzip.compress(b"x" * 5000)[:25], "truncated gzip"),
        (gzip.compress(gzip.compress(b"x" * 5000)), "compressed twice"),
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
    with pytest.raises(RejectedInput, match="is a directory"):
        read_native(tmp_path)


# --- numbers held against what they must be ------------------------------------------------------


def text_of(wave, column):
    return "".join(f"{x:.4f} {y:.6e}\n" for x, y in zip(wave, column, strict=True)).encode()


RED = np.arange(5700.0, 9300.0, 0.8)


@pytest.mark.parametrize("teff", [2300, 3200, 4000, 6000])
def test_a_black_body_passes_and_its_integral_is_that_of_stefan(tmp_path, teff):
    wave = np.geomspace(1000.0, 1e6, 20_000)
    flux = black_body_flux(wave, float(teff))
    assert np.trapezoid(flux, wave) == pytest.approx(5.670374e-5 * teff**4, rel=2e-3)
    path = tmp_path / f"lte{teff / 100:05.1f}-5.0-0.0a+0.0.BT-Settl.txt"
    path.write_bytes(text_of(RED, np.log10(black_body_flux(RED, float(teff))) + 8.0))
    np.testing.assert_allclose(read_native(path).flux, black_body_flux(RED, float(teff)), rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda flux: flux / flux.max(),
        lambda flux: flux * 1e-20,
        lambda flux: np.log10(flux),
        lambda flux: np.log10(flux) + 8.0 + 1.2,
        lambda flux: np.log10(flux) + 8.0 - 1.2,
        lambda flux: flux * 0 + 1.0,
    ],
)
def test_a_linear_flux_is_not_taken_for_a_logarithm(tmp_path, change):
    path = tmp_path / "lte032.0-5.0-0.0a+0.0.BT-Settl.txt"
    path.write_bytes(text_of(RED, change(black_body_flux(RED, 3200.0))))
    with pytest.raises(
        RejectedInput, match=r"is no logarithm: 10\*\*\(F -8\) is .* times that of a black body"
    ) as bad:
        read_native(path)
    assert "logarithm" in bad.value.remedy
    path.write_bytes(text_of(RED, np.log10(black_body_flux(RED, 3200.0)) + 8.0 - 0.7))
    read_native(path)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_other_formats_are_held_against_the_black_body_too(tmp_path, factor):
    flux = black_body_flux(WAVE, 3000.0)
    svo, ours = tmp_path / "a.txt", tmp_path / "lte030.0-5.0-0.0a+0.0.fits"
    svo.write_bytes(svo_bytes(WAVE, flux * factor))
    btsettl_fits_hdus(WAVE, flux * factor).writeto(ours)
    aces = write_aces(tmp_path / "Z", WAVE, flux * factor)
    for path in (svo, ours, aces):
        with pytest.raises(RejectedInput, match="black body of Teff = 3000 K"):
            read_native(path)


def test_one_wild_sample_is_found(tmp_path):
    flux = black_body_flux(RED, 3200.0)
    flux[1000] *= 5e3
    path = tmp_path / "a.txt"
    path.write_bytes(svo_bytes(RED, flux, teff=3200))
    with pytest.raises(RejectedInput, match=r"at 6500.00 A is 5e\+03 times"):
        read_native(path)


@pytest.mark.parametrize(
    "labels", [{"teff": -1}, {"teff": 1e7}, {"logg": 55}, {"meta": 8}, {"alpha": -9}]
)
def test_labels_of_no_star_are_refused(tmp_path, labels):
    path = tmp_path / "a.txt"
    path.write_bytes(svo_bytes(WAVE, FLUX, **labels))
    with pytest.raises(RejectedInput, match="is not that of a star"):
        read_native(path)


def test_a_file_cut_short_has_holes(tmp_path):
    """Records stand in the order in which processors finished, each a stretch of the spectrum."""
    fine = np.arange(6000.0, 9000.0, 0.2)
    blocks = np.random.default_rng(2).permutation(np.array_split(fine, 10))
    text = b"".join(text_of(b, np.log10(black_body_flux(b, 3000.0)) + 8.0) for b in blocks)
    path = tmp_path / SPEC7
    path.write_bytes(text)
    np.testing.assert_allclose(read_native(path).wave_aa, fine)
    path.write_bytes(text[: int(0.51 * len(text))])
    with pytest.raises(RejectedInput, match="nothing between") as caught:
        read_native(path)
    assert "cut short" in caught.value.remedy


def test_a_flux_that_overflows_is_named(tmp_path):
    log_flux = np.log10(black_body_flux(RED, 3000.0)) + 8.0
    log_flux[7] = 400.0
    path = tmp_path / SPEC7
    path.write_bytes(text_of(RED, log_flux))
    with pytest.raises(RejectedInput, match=r"overflows at 5705.60 A"):
        read_native(path)


# --- readers of users ----------------------------------------------------------------------------

MODULE = """
import numpy as np
from jaxmdwarf.io.grids import GridLabels, GridReader, finish

def matches(name, head):
    return head.startswith(b"#MINE")

def read(data, name, *, air=None, wanted=None):
    lines = data.decode().splitlines()
    labels = GridLabels(*(float(word) for word in lines[0].split()[1:]))
    wave, flux = np.array([line.split() for line in lines[1:]], float).T
    return finish(wave, flux, labels, layout="mine", air=bool(air), wanted=wanted)

READER = GridReader("mine", matches, read)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "my_grid_reading.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    import my_grid_reading

    register_grid_reader(my_grid_reading.READER)
    yield
    unregister_grid_reader("mine")
    del sys.modules["my_grid_reading"]


def test_users_register_readers_that_workers_know(tmp_path, mine):
    assert list_grid_readers()[0] == "mine"
    paths = []
    for teff in (2800, 3000, 3200, 3400, 3600):
        paths.append(str(tmp_path / f"{teff}.mine"))
        text = text_of(RED, black_body_flux(RED, float(teff)))
        (tmp_path / f"{teff}.mine").write_bytes(f"#MINE {teff} 5 0 0\n".encode() + text)
    assert read_native(paths[1]).labels == GridLabels(3000.0, 5.0, 0.0, 0.0)
    found = list(stream_results(read_native, paths, processes=2, chunk_size=1))
    assert [native.labels.teff for _, native in found] == [2800, 3000, 3200, 3400, 3600]
    assert {native.layout for _, native in found} == {"mine"}


@pytest.mark.parametrize("kind", ["table", "image"])
def test_a_damaged_first_card_is_a_reason(tmp_path, kind):
    """astropy makes a unit of it that has no data."""
    if kind == "image":
        path = write_aces(tmp_path / "Z-0.0", WAVE, FLUX)
    else:
        path = tmp_path / "lte033.0-5.0-0.0a+0.0.BT-Settl.spec.fits"
        btsettl_fits_hdus(WAVE, FLUX).writeto(path)
    content = bytearray(path.read_bytes())
    content[30] = 0xF4  # behind SIMPLE and its value
    path.write_bytes(content)
    with pytest.raises(RejectedInput, match=r"primary image|no table"):
        read_native(path)
