"""``jaxmdwarf catalogue`` from the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main


@pytest.fixture
def fits(tmp_path):
    n = 30
    table = pd.DataFrame({"obsid": np.arange(n), "RA": np.arange(n), "Dec": 0.0, "SNRr": 30.0})
    table = table.assign(Teff=3500.0, e_Teff=20.0, flags=0, path="a.fits")
    table.loc[4, "Teff"] = 4500.0
    table.to_csv(tmp_path / "fits.csv", index=False)
    return tmp_path


def test_it_shows_what_each_cut_removes_and_writes_beside_the_catalogue(fits, capsys):
    words = ["catalogue", str(fits / "fits.csv"), "--out", str(fits / "CAT.vot")]
    assert main([*words, "--paper-cuts"]) == 0
    shown = capsys.readouterr()
    line = next(line for line in shown.err.splitlines() if "Teff above 4300 K" in line)
    assert line.split()[-1] == "1"
    assert "e_Teff is the error of the fit alone" in shown.err
    assert "catalogue        29" in shown.out
    names = {path.name for path in fits.iterdir()}
    beside = {"CAT.vot", "CAT_rejects.csv", "CAT_waterfall.csv", "CAT_metrics.json", "CAT_sky.png"}
    assert names == {"fits.csv", *beside}
    assert main(words) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--isochrones", "none.dat"]) == 2
    assert "none.dat" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--cuts.max-teff", "3000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["catalogue"] == 30
    assert found["waterfall"]["Teff above 3000 K"] == 30
    assert main([*words, "--overwrite", "--cuts.max-teff", "3000", "--paper-cuts"]) == 1
    assert "leave no row" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--cuts.max-tef", "4000"], "did you mean --cuts.max-teff"),
        (["--binaries", "none.fits"], "there is no table none.fits"),
        (["--stars-by", "name"], "--stars-by cannot be 'name'"),
        (["--radius-arcsec", "-3"], "makes no sense"),
        (["--repeats.snr-column", "SNRz"], "no column SNRz"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(fits, capsys, wrong, said):
    words = ["catalogue", str(fits / "fits.csv"), "--out", str(fits / "CAT.fits")]
    assert main([*words, *wrong]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (fits / "CAT.fits").exists()
