"""``jaxmdwarf crosscheck`` from the command line: its options reach what they are for."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main


@pytest.fixture
def words(tmp_path):
    number = np.arange(12)
    snr = np.linspace(10.0, 65.0, 12)
    tables = {
        "pairs": pd.DataFrame(
            {
                "source_id1": 100 + number,
                "source_id2": 200 + number,
                "pairdistance": np.where(number < 2, 2.0, 8.0) / 3600.0,
                "R_chance_align": np.where(number == 5, 0.02, 0.001),
            }
        ),
        "primaries": pd.DataFrame(
            {"gaia_source_id": 100 + number, "feh": 0.1, "rv": np.where(number == 7, 15.0, 0.0)}
        ),
        "gaia": pd.DataFrame(
            {
                "source_id": 200 + number,
                "radial_velocity": -2.0,
                "radial_velocity_error": 1.0 + number,
                "rv_nb_transits": number,
            }
        ),
    }
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    pd.DataFrame(
        {"source_id": 200 + number, "M_H": 0.3, "RV": 1.0, "SNRr": snr, "other": snr[::-1]}
    ).to_csv(tmp_path / "catalogue.csv", index=False)
    inputs = [part for name in tables for part in (f"--{name}", str(tmp_path / f"{name}.csv"))]
    catalogue = str(tmp_path / "catalogue.csv")
    return ["crosscheck", catalogue, *inputs, "--out", str(tmp_path / "out"), "--json"]


CASES = {
    "": (8, 1, 12),
    "--max-r-chance-align 0.1 --min-separation-arcsec 1 --min-velocity-snr 40": (11, 1, 5),
    "--max-delta-rv-kms inf --max-gaia-error-kms 3 --min-gaia-transits 1": (9, 1, 2),
    "--snr-column other --min-velocity-snr 50": (8, 0, 3),
}


@pytest.mark.parametrize("options", CASES)
def test_criteria_of_the_paper_are_defaults_and_options_change_them(words, capsys, options):
    assert main([*words, *options.split(), "--snr-thresholds", "5", "60"]) == 0
    summary = json.loads(capsys.readouterr().out)
    counts = [summary[name] for name in ("pairs, S/N > 5", "pairs, S/N > 60", "velocities")]
    assert tuple(counts) == CASES[options]
    assert summary["[M/H] bias, S/N > 5"] == "+0.200 ± 0.000"
    assert summary["RV bias"].startswith("+3.00")


def test_a_catalogue_alone_is_bad_usage(words, capsys):
    assert main([*words[:2], "--out", "x"]) == 2
    assert "give --pairs (and --primaries), --gaia, or both" in capsys.readouterr().err
