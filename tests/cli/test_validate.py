"""``jaxmdwarf validate`` and ``quickstart`` from the command line."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main


@pytest.fixture
def tables(tmp_path):
    n = 60
    rng = np.random.default_rng(0)
    truth = pd.DataFrame({"obsid": np.arange(n), "teff": rng.uniform(3000, 4000, n)})
    truth["cooler"] = truth["teff"] - 500.0
    truth.to_csv(tmp_path / "truth.csv", index=False)
    catalogue = truth.assign(Teff=truth["teff"] + 12.0, e_Teff=10.0, SNRr=30.0)
    catalogue = catalogue.drop(columns=["teff", "cooler"])
    catalogue.to_csv(tmp_path / "catalogue.csv", index=False)
    return tmp_path


def test_validate_prints_what_it_found(tables, capsys):
    words = ["validate", str(tables / "catalogue.csv"), "--reference", str(tables / "truth.csv")]
    assert main([*words, "--out", str(tables / "v"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["teff_bias"] == pytest.approx(12.0)
    assert (tables / "v" / "report.html").is_file()
    columns = ["--columns", "teff=cooler,obsid=obsid"]
    assert main([*words, "--out", str(tables / "w"), *columns, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teff_bias"] == pytest.approx(512.0)


def test_tables_without_a_common_number_fail_in_one_line(tables, capsys):
    words = ["validate", str(tables / "catalogue.csv"), "--reference", str(tables / "truth.csv")]
    # Identifiers are no temperatures: they count as missing.
    assert main([*words, "--out", str(tables / "w"), "--columns", "teff=obsid"]) == 1
    said = capsys.readouterr().err
    assert "no row has a value in both tables" in said
    assert "--columns teff=TEFF_K" in said
    assert not (tables / "w").exists()


def test_bad_usage_is_one_line_and_exit_code_2(tables, capsys):
    words = ["validate", str(tables / "catalogue.csv"), "--out", str(tables / "v")]
    reference = ["--reference", str(tables / "truth.csv")]
    for wrong in (
        ["--reference", str(tables / "none.csv")],
        [*reference, "--columns", "teff"],
        [*reference, "--columns", "teff=nothing"],
    ):
        assert main([*words, *wrong]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("jaxmdwarf: ")
    assert not (tables / "v").exists()


def test_quickstart_refuses_a_folder_that_is_not_its_own(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "holds no quickstart; it was left alone" in capsys.readouterr().err
    assert main(["quickstart", "--out", str(tmp_path / "q"), "--n", "1"]) == 2
    assert main(["quickstart", "--out", str(tmp_path / "q"), "--gap", "weather"]) == 2


def test_several_references_of_named_kinds(tables, capsys):
    truth = pd.read_csv(tables / "truth.csv")
    renamed = truth.rename(columns={"teff": "Teff"}).drop(columns="cooler")
    renamed.assign(logg=0.0).to_csv(tables / "lepine.csv", index=False)
    words = ["validate", str(tables / "catalogue.csv"), "--out", str(tables / "s"), "--json"]
    words += ["--reference", str(tables / "truth.csv"), str(tables / "lepine.csv")]
    assert main([*words, "--reference-kind", "other", "lepine2013"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["truth.csv"]["teff_bias"] == pytest.approx(12.0)
    assert summary["Lépine et al. (2013)"]["teff_bias"] == pytest.approx(12.0)
    assert main([*words, "--overwrite", "--reference-kind", "other", "lepin"]) == 2
    assert "no published table is called 'lepin'" in capsys.readouterr().err
