"""Texts and tables of a comparison, against numbers counted by hand."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.workflows.agreement_tables import (
    agreement_csv,
    agreement_markdown,
    agreement_metrics,
    agreement_table,
    list_all_agreement,
)
from jaxmdwarf.workflows.validating import validate_tables
from jaxmdwarf.workflows.validation_report import (
    _by_snr_text,
    _is_simulated,
    _summarise,
    pull_table,
    recovery_table,
)

N = 400


@pytest.fixture(scope="module")
def result():
    """Half of the stars have S/N 80, half 20; these scatter by 60 and 100 K about +20 K."""
    rng = np.random.default_rng(3)
    bright = np.arange(N) % 2 == 0
    away = 20 + np.where(bright, 60, 100) * rng.standard_normal(N)
    away[:4] = 3000.0, -900.0, 900.0, 900.0
    truth = pd.DataFrame(
        {"obsid": np.arange(N), "teff": np.linspace(3100, 3900, N), "mh": np.zeros(N)}
    )
    ours = pd.DataFrame(
        {
            "obsid": np.arange(N),
            "Teff": truth["teff"] + away,
            "e_Teff": 50.0,
            "M_H": 0.1 + 0.2 * rng.standard_normal(N),
            "e_M_H": 0.2,
            "SNRr": np.where(bright, 80.0, 20.0),
            "flags": 0,
        }
    )
    return validate_tables(ours, truth), away, bright


def central(values):
    low, high = np.percentile(values, [50 - 34.135, 50 + 34.135])
    return 0.5 * (high - low)


def test_the_summary_has_bias_scatter_and_width_of_each_label(result):
    found, away, _ = result
    told = _summarise(found)
    assert told["compared"] == N
    assert told["teff_bias"] == round(float(np.median(away)), 4)
    assert told["teff_scatter"] == pytest.approx(central(away), rel=0.01)
    assert told["teff_pull_width"] == pytest.approx(central(away) / 50, rel=0.01)
    assert told["mh_bias"] == pytest.approx(0.1, abs=0.04)


def test_tables_for_readers_have_all_stars_and_the_bright_ones(result):
    found, away, bright = result
    header, rows = recovery_table(found)
    assert header[1:6] == ["n", "bias", "scatter", "outliers > 5σ", "n (S/N > 50)"]
    teff = next(row for row in rows if "eff" in row[0])
    outliers = np.mean(np.abs(away - np.median(away)) > 5 * central(away))
    assert teff[1:] == [
        str(N),
        f"{np.median(away):+.1f}",
        teff[3],
        f"{outliers:.1%}",
        str(N // 2),
        f"{np.median(away[bright]):+.1f}",
        teff[7],
    ]
    assert float(teff[3]) == pytest.approx(central(away), rel=0.02)
    assert float(teff[7]) == pytest.approx(central(away[bright]), rel=0.03)
    header, rows = pull_table(found)
    pulls = found.comparisons["teff"].pulls
    assert header == ["", "n", "mean", "width", "beyond ±5"]
    assert rows[0][1:] == [
        str(N),
        f"{pulls.mean:+.3f} ± {pulls.e_mean:.3f}",
        f"{pulls.width:.3f} ± {pulls.e_width:.3f}",
        f"{np.mean(np.abs(away / 50) > 5):.1%}",
    ]
    assert pulls.width == pytest.approx(central(away) / 50, rel=0.01)


def test_bins_of_snr_are_lines_that_any_reader_of_csv_takes(result):
    found, away, bright = result
    text = _by_snr_text({'Smith, "the" 2020': found})
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["reference"] for row in rows} == {'Smith, "the" 2020'}
    of_teff = [row for row in rows if row["quantity"] == "teff" and float(row["n"]) > 0]
    assert [float(row["snr"]) for row in of_teff] == [20, 80]
    for row, some in zip(of_teff, (~bright, bright), strict=True):
        assert float(row["low"]) <= float(row["snr"]) < float(row["high"])
        assert float(row["n"]) == N / 2
        assert float(row["bias"]) == pytest.approx(np.median(away[some]), rel=1e-4)
        assert float(row["scatter"]) == pytest.approx(central(away[some]), rel=0.02)
        assert float(row["stated_error"]) == 50
        assert float(row["pull_width"]) == pytest.approx(central(away[some]) / 50, rel=0.02)


def test_agreement_is_written_alike_for_programs_and_readers(result):
    found, away, bright = result
    rows = list_all_agreement({"A | B": found, "C": found})
    assert {title for title, _, _ in rows} == {"A | B", "C"}
    lines = list(csv.DictReader(io.StringIO(agreement_csv(rows))))
    assert len(lines) == len(rows) == len(agreement_metrics(rows))
    whole = next(row for row in lines if row["by"] == "all" and row["quantity"] == "teff")
    assert int(whole["n"]) == N
    assert float(whole["bias"]) == pytest.approx(np.median(away), rel=1e-5)
    assert float(whole["mean"]) == pytest.approx(away.mean(), rel=1e-5)
    assert float(whole["scatter"]) == pytest.approx(away.std(ddof=1), rel=0.01)
    assert float(whole["robust_scatter"]) == pytest.approx(central(away), rel=0.01)
    told = next(
        one
        for one in agreement_metrics(rows)
        if (one["reference"], one["by"], one["quantity"]) == ("C", "all", "teff")
    )
    assert told["bias"] == pytest.approx(np.median(away))
    header, body = agreement_table(rows)
    assert header[:4] == ["reference", "label", "stars", "n"]
    # All stars and the bright ones, of two labels and two references.
    assert [row[2] for row in body] == ["all", "S/N > 50"] * 4
    assert [row[3] for row in body[:2]] == [str(N), str(N // 2)]
    assert body[0][4].startswith(f"{np.median(away):+.1f} ± ")
    assert float(body[1][4].split(" ± ")[0]) == round(float(np.median(away[bright])), 1)
    text = agreement_markdown(rows).splitlines()
    assert text[0].startswith("| reference | label |")
    assert set(text[1]) == {"|", "-", " "}
    assert text[2].startswith("| A / B |")
    assert len(text) == 2 + len(body)


def test_catalogues_of_simulated_models_are_known():
    table = pd.DataFrame({"a": [1]})
    assert not _is_simulated(table)
    table.attrs["provenance"] = {"model_trained_on": "a simulation"}
    assert _is_simulated(table)
