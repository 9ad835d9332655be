"""Files of every format become one table with one physics; nothing is lost."""

import bz2
import csv
import lzma

import numpy as np
import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.grids import read_grid
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.lsf import FWHM_OF_SIGMA
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.gridding import GridTask, make_grid
from tests.io.grids.conftest import (
    btsettl_fits_hdus,
    model_flux,
    spec7_bytes,
    svo_bytes,
    write_aces,
)

WAVE = np.arange(6750.0, 7250.0, 0.2)
PIXELS = PixelGrid.linear(6800.0, 7200.0, 1.0)


def write_folder(folder):
    """The same star in four formats under four labels, with holes in the label grid."""
    flux = model_flux(WAVE)
    folder.mkdir()
    (folder / "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7.xz").write_bytes(
        lzma.compress(spec7_bytes(WAVE, flux))
    )
    (folder / "lte031.0-4.5-0.0a+0.0.BT-Settl.spec.7.bz2").write_bytes(
        bz2.compress(spec7_bytes(WAVE, flux, style="exponent"))
    )
    (folder / "svo.txt").write_bytes(svo_bytes(WAVE, flux, teff=3200, logg=5.5, meta=0, alpha=0))
    btsettl_fits_hdus(WAVE, flux).writeto(folder / "lte033.0-5.0-0.0a+0.0.BT-Settl.spec.fits.gz")
    write_aces(folder / "Z-1.0", WAVE, flux, teff=3400, mh=-1.0, alpha=0.4, below=True)
    return folder


def test_all_formats_give_one_spectrum_at_the_resolution(tmp_path):
    folder = write_folder(tmp_path / "ingest")
    (folder / "notes.txt").write_text("not a model")
    (folder / "lteXXX.BT-Settl.spec.7").write_bytes(spec7_bytes(WAVE, model_flux(WAVE)))
    (folder / "empty.fits").write_bytes(b"")
    (folder / "again.txt").write_bytes(
        svo_bytes(WAVE, model_flux(WAVE), teff=3200, logg=5.5, meta=0, alpha=0)
    )
    out = tmp_path / "grid.parquet"
    summary = make_grid([folder], out, pixels=PIXELS, processes=1, command=["grid", "x"])
    assert (summary["inputs"], summary["used"], summary["rejected"]) == (9, 5, 4)
    with open(tmp_path / "grid_rejects.csv", newline="") as file:
        reasons = {row["path"].split("/")[-1]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"notes.txt", "lteXXX.BT-Settl.spec.7", "empty.fits", "svo.txt"}
    assert "no labels" in reasons["lteXXX.BT-Settl.spec.7"]
    assert "again.txt" in reasons["svo.txt"]

    table = read_grid(out)
    assert table.label_space.names == ("teff", "logg", "mh", "alpha_m")
    assert table.labels.tolist() == [
        [3000.0, 5.0, -0.5, 0.2],
        [3100.0, 4.5, 0.0, 0.0],
        [3200.0, 5.5, 0.0, 0.0],
        [3300.0, 5.0, 0.0, 0.0],
        [3400.0, 5.0, -1.0, 0.4],
    ]
    assert table.kind == "theory"
    assert table.grid == PIXELS
    np.testing.assert_allclose(table.flux / table.flux[3], 1.0, atol=4e-4)
    # The line of 1.5 Angstrom at 7000 comes out with the width of R = 1800, in vacuum.
    wave = PIXELS.wave_aa
    near = np.abs(wave - 7000.0) < 15.0
    depth = (1 - table.flux[4] / (1e6 * (wave / 7000.0) ** 2))[near]
    centre = (depth * wave[near]).sum() / depth.sum()
    width = np.sqrt((depth * (wave[near] - centre) ** 2).sum() / depth.sum())
    expected = np.sqrt((7000.0 / 1800.0 / FWHM_OF_SIGMA) ** 2 + 1.5**2 + 1 / 12)
    assert centre == pytest.approx(7000.0, abs=0.02)
    assert width == pytest.approx(expected, rel=0.02)


def test_a_table_can_be_degraded_further_and_merged(tmp_path):
    folder = write_folder(tmp_path / "ingest")
    finer = tmp_path / "finer.parquet"
    wide = PixelGrid.linear(6780.0, 7220.0, 0.5)
    make_grid([folder], finer, pixels=wide, resolution=6000.0, processes=1)
    direct, again = tmp_path / "direct.parquet", tmp_path / "again.parquet"
    make_grid([folder], direct, pixels=PIXELS, resolution=1500.0, processes=1)
    make_grid([finer], again, pixels=PIXELS, resolution=1500.0, processes=1)
    np.testing.assert_allclose(read_grid(again).flux, read_grid(direct).flux, rtol=3e-3)
    with pytest.raises(WorkFailed, match="resolution of 1500"):
        make_grid([direct], tmp_path / "x.parquet", pixels=PIXELS, resolution=1800.0, processes=1)


def test_a_label_with_one_value_is_no_label(tmp_path):
    folder = tmp_path / "ingest"
    folder.mkdir()
    for teff in (28.0, 29.0, 30.0):
        name = f"lte{teff:05.1f}-5.0-0.0a+0.0.BT-Settl.spec.7"
        (folder / name).write_bytes(spec7_bytes(WAVE, model_flux(WAVE, 100 * teff)))
    summary = make_grid([folder], tmp_path / "g.parquet", pixels=PIXELS, processes=1)
    assert summary["fixed_labels"] == {"logg": 5.0, "mh": 0.0, "alpha_m": 0.0}
    assert read_grid(tmp_path / "g.parquet").label_space.names == ("teff",)


def test_files_that_cannot_serve_are_rejected(tmp_path):
    folder = write_folder(tmp_path / "ingest")
    coarse = np.arange(6000.0, 8000.0, 5.0)
    (folder / "coarse.txt").write_bytes(svo_bytes(coarse, model_flux(coarse), teff=2800))
    short = WAVE[WAVE < 7000.0]
    (folder / "short.txt").write_bytes(svo_bytes(short, model_flux(short), teff=2900))
    make_grid([folder], tmp_path / "g.parquet", pixels=PIXELS, processes=1)
    with open(tmp_path / "g_rejects.csv", newline="") as file:
        reasons = {row["path"].split("/")[-1]: row["reason"] for row in csv.DictReader(file)}
    assert "5.00 Angstrom apart" in reasons["coarse.txt"]
    assert "cover" in reasons["short.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(WorkFailed, match="a grid needs 2"):
        make_grid([empty], tmp_path / "h.parquet", pixels=PIXELS)
    with pytest.raises(UsageError, match="resolution"):
        make_grid([folder], tmp_path / "h.parquet", resolution=-3.0)


def test_the_command(tmp_path, capsys):
    folder = write_folder(tmp_path / "ingest")
    out = tmp_path / "grid.parquet"
    arguments = ["grid", str(folder), "--out", str(out), "--start-aa", "6800", "--stop-aa", "7200"]
    assert main([*arguments, "--resolution", "2000", "--processes", "1", "--json"]) == 0
    assert '"spectra": 5' in capsys.readouterr().out
    assert read_grid(out).resolution == 2000.0
    assert main([*arguments, "--processes", "1"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["grid", str(tmp_path / "nowhere"), "--out", str(out), "--overwrite"]) == 1
    assert read_grid(out).resolution == 2000.0
    assert read_native(folder / "svo.txt").labels.teff == 3200.0


def test_one_bad_file_is_named_and_the_others_go_on(tmp_path):
    """Cut text, numbers that overflow, holes, lines that are none: each is a reject of its own."""
    folder = tmp_path / "ingest"
    folder.mkdir()
    name = "lte{:05.1f}-5.0-0.0a+0.0.BT-Settl.spec.7"
    whole = {teff: spec7_bytes(WAVE, model_flux(WAVE, 100 * teff)) for teff in range(28, 36)}
    at_7000 = next(n for n, line in enumerate(whole[28].split(b"\n")) if b"7000.00" in line)

    def edit(text, new):
        lines = text.split(b"\n")
        lines[at_7000] = new
        return b"\n".join(lines)

    kept = whole[31].split(b"\n")
    hole = b"\n".join(line for line in kept if not 6990.0 <= float(line[:13] or 0) < 6996.0)
    columns = svo_bytes(WAVE, model_flux(WAVE, 3600.0), teff=3600)
    spoilt = {
        name.format(28.0): (whole[28][: int(0.51 * len(whole[28])) + 7], "the last line is cut"),
        name.format(29.0): (edit(whole[29], b"   7000.00000 9.90000+300"), "overflows at 7000"),
        name.format(30.0): (edit(whole[30], b"   7000.00000 2.61234D+01"), "times that of a black"),
        name.format(31.0): (hole, "between 6989.8 and 6996.0 A, which is more than the 3.9 A"),
        name.format(32.0): (whole[32].replace(b"\n ", b"\n* "), "lines begin with a wavelength"),
        "cut.txt": (columns[: int(0.51 * len(columns)) + 3], "the last line is cut"),
    }
    for path, (text, _) in spoilt.items():
        (folder / path).write_bytes(text)
    for teff in (33, 34, 35):
        (folder / name.format(float(teff))).write_bytes(whole[teff])
    # Text without a last line end may be whole.
    (folder / name.format(35.0)).write_bytes(whole[35].rstrip())
    summary = make_grid([folder], tmp_path / "g.parquet", pixels=PIXELS, processes=1)
    assert summary["used"] == 3
    with open(tmp_path / "g_rejects.csv", newline="") as file:
        reasons = {row["path"].split("/")[-1]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == spoilt.keys()
    for path, (_, reason) in spoilt.items():
        assert reason in reasons[path], path


def test_models_are_read_as_far_as_the_resolution_reaches():
    """Eight sigma of the line spread beyond the edges of the outer pixels, and no further."""
    low, high = GridTask(PIXELS, resolution=1500.0)._reach()
    for wave, edge in ((low, 6799.5), (high, 7200.5)):
        sigma = edge / 1500.0 / (2 * np.sqrt(2 * np.log(2)))
        assert abs(wave - edge) == pytest.approx(8 * sigma, rel=1e-6)
    assert low < 6799.5 < 7200.5 < high
