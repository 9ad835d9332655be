"""The command `jaxmdwarf measure` as a newcomer meets it."""

import json

import numpy as np
import pytest
from astropy.io import fits

from jaxmdwarf.cli import main


@pytest.fixture
def spectrum(tmp_path):
    wave = 10.0 ** (3.5682 + 1e-4 * np.arange(3909))
    zeros = np.zeros(wave.size)
    hdu = fits.PrimaryHDU(
        np.stack([zeros + 10.0, zeros + 4.0, wave, zeros, zeros]).astype(np.float32)
    )
    hdu.header["COEFF0"], hdu.header["COEFF1"], hdu.header["OBSID"] = 3.5682, 1e-4, 5
    hdu.writeto(tmp_path / "a.fits")
    return tmp_path / "a.fits"


def test_json_result_and_exit_code(tmp_path, spectrum, capsys):
    out = tmp_path / "T.csv"
    assert main(["measure", str(spectrum), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["measured"] == summary["inputs"] == 1
    assert out.is_file()
    assert (tmp_path / "T_rejects.csv").is_file()


def test_plain_result_names_the_products(tmp_path, spectrum, capsys):
    assert main(["measure", str(spectrum), "--out", str(tmp_path / "T.fits")]) == 0
    shown = capsys.readouterr().out
    assert "T.fits" in shown
    assert "T_rejects.csv" in shown


def test_nothing_usable_is_exit_1(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    assert main(["measure", str(tmp_path / "a.txt"), "--out", str(tmp_path / "T.fits")]) == 1
    assert "not a FITS file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--out", "T.fits"], ["a.fits", "--out", "T.doc"], ["a.fits"], ["a.fits", "--no"]]
)
def test_bad_usage_is_exit_2(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(["measure", *arguments]) == 2
    assert not list(tmp_path.iterdir())


def test_help_tells_what_goes_in_and_out(capsys):
    assert main(["measure", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("FILES", "--out", "--velocity-table", "_rejects.csv", "--json"):
        assert word in shown
