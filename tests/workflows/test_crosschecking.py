"""The simulated survey's pairs and velocities give back the scatter that was put in."""

import csv
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.gaia_velocities import GaiaVelocityConfig
from jaxmdwarf.catalogue.wide_pairs import PairConfig
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.plots.style import render_png
from jaxmdwarf.simulate.population import PopulationConfig, sample_population
from jaxmdwarf.workflows.crosschecking import (
    check_pairs,
    check_velocities,
    crosscheck_files,
    plot_checks,
)

MH_BIAS, MH_SCATTER, MH_STATED = 0.04, 0.20, 0.12
RV_BIAS, RV_SCATTER, RV_STATED = 3.0, 9.0, 5.0


@pytest.fixture(scope="module")
def survey():
    """Catalogue, pairs as El-Badry et al. (2021) list them, primaries as LASP does, Gaia.

    Every star has its own labels and velocity in the catalogue with a known bias and scatter.
    """
    config = PopulationConfig(pair_fraction=0.3, binary_fraction=0.0, visit_shares=(1.0,))
    drawn = sample_population(4000, seed=3, config=config)
    stars, wide = drawn.stars, drawn.pairs
    n = stars["teff"].size
    rng = np.random.default_rng(4)
    catalogue = pd.DataFrame(
        {
            "source_id": stars["source_id"],
            "RA": stars["ra_deg"],
            "Dec": stars["dec_deg"],
            "M_H": stars["mh"] + MH_BIAS + MH_SCATTER * rng.standard_normal(n),
            "e_M_H": MH_STATED,
            "RV": stars["rv_kms"] + RV_BIAS + RV_SCATTER * rng.standard_normal(n),
            "e_RV": RV_STATED,
            "SNRr": 10 ** rng.uniform(0.6, 2.2, n),
            "flags": np.zeros(n, np.int32),
        }
    )
    n_pair = wide["star"].size
    pairs = pd.DataFrame(
        {
            "source_id1": 9 * 10**17 + np.arange(n_pair),
            "source_id2": wide["secondary_source_id"],
            "pairdistance": wide["separation_arcsec"] / 3600.0,
            "R_chance_align": wide["r_chance_align"],
            "ruwe1": 1.0,
        }
    )
    primaries = pd.DataFrame(
        {
            "gaia_source_id": pairs["source_id1"],
            "teff": wide["primary_teff"],
            "feh": wide["primary_feh"],
            "feh_err": wide["primary_e_feh"],
            "rv": wide["primary_rv_kms"] + RV_BIAS,
            "snrg": 60.0,
        }
    )
    e_gaia = rng.uniform(1.0, 6.0, n)
    gaia = pd.DataFrame(
        {
            "source_id": stars["source_id"],
            "radial_velocity": stars["rv_kms"] + e_gaia * rng.standard_normal(n),
            "radial_velocity_error": e_gaia,
            "rv_nb_transits": rng.integers(5, 30, n),
        }
    )
    return catalogue, pairs, primaries, gaia, drawn


def near(value, expected, error):
    assert 0 < error < 0.2 * abs(expected)
    assert abs(value - expected) < 3 * error


def test_known_scatter_between_pairs_comes_back(survey):
    catalogue, pairs, primaries, _, drawn = survey
    wide = drawn.pairs
    found = check_pairs(catalogue, pairs, primaries)
    # As many as the criteria leave, told without the functions that are tested.
    snr = catalogue["SNRr"].to_numpy()[wide["star"]]
    delta_rv = catalogue["RV"].to_numpy()[wide["star"]] - primaries["rv"].to_numpy()
    holds = (wide["r_chance_align"] < 0.01) & (wide["separation_arcsec"] > 3.0)
    holds &= np.abs(delta_rv) < 10.0
    assert [one.threshold for one in found.samples] == [5.0, 20.0, 50.0]
    for one in found.samples:
        assert one.agreement.n == (holds & (snr > one.threshold)).sum() > 100
        total = np.hypot(MH_SCATTER, np.sqrt(np.mean(wide["primary_e_feh"] ** 2)))
        near(one.agreement.robust_scatter, total, one.agreement.e_robust_scatter)
        near(one.agreement.scatter, total, one.agreement.e_scatter)
        assert one.agreement.bias == pytest.approx(MH_BIAS, abs=3 * one.agreement.e_bias)
        # What the stated errors leave out: those of the primaries are honest.
        beyond = np.sqrt(MH_SCATTER**2 - MH_STATED**2)
        near(one.agreement.excess, beyond, one.agreement.e_excess)
    whole = found.samples[0]
    used = catalogue["M_H"].to_numpy()[wide["star"]][holds & (snr > 5.0)]
    assert (whole.low, whole.high) == pytest.approx(np.percentile(used, (5, 95)))


def test_the_table_that_a_simulated_survey_writes_has_the_primaries_itself(survey):
    catalogue, pairs, primaries, _, drawn = survey
    written = pd.DataFrame({name: one for name, one in drawn.pairs.items() if name != "star"})
    written["primary_rv_kms"] += RV_BIAS
    assert (
        check_pairs(catalogue, written).samples == check_pairs(catalogue, pairs, primaries).samples
    )


def test_known_offset_and_scatter_of_velocities_come_back(survey):
    catalogue, _, _, gaia, _ = survey
    found = check_velocities(catalogue, gaia)
    assert found.agreement.n == len(catalogue)
    total = np.sqrt(RV_SCATTER**2 + np.mean(gaia["radial_velocity_error"] ** 2))
    near(found.agreement.bias, RV_BIAS, found.agreement.e_bias)
    near(found.agreement.scatter, total, found.agreement.e_scatter)
    near(found.agreement.robust_scatter, total, found.agreement.e_robust_scatter)
    beyond = np.sqrt(RV_SCATTER**2 - RV_STATED**2)
    near(found.agreement.excess, beyond, found.agreement.e_excess)
    assert sum(one.recovery.n for one in found.by_snr) == (catalogue["SNRr"] >= 5.0).sum()
    strict = check_velocities(catalogue, gaia, GaiaVelocityConfig(max_error_kms=2.0))
    assert strict.agreement.n == (gaia["radial_velocity_error"] <= 2.0).sum()
    assert strict.agreement.scatter < found.agreement.scatter


def test_one_folder_has_both_comparisons(survey, tmp_path):
    catalogue, pairs, primaries, gaia, _ = survey
    paths = {}
    tables = {"catalogue": catalogue, "pairs": pairs, "primaries": primaries, "gaia": gaia}
    for name, table in tables.items():
        paths[name] = tmp_path / f"{name}.parquet"
        table.to_parquet(paths[name])
    out = tmp_path / "out"
    summary = crosscheck_files(
        paths["catalogue"], out, pairs=paths["pairs"], primaries=paths["primaries"],
        gaia=paths["gaia"], pair_config=PairConfig(snr_thresholds=(20.0, 50.0)),
    )  # fmt: skip
    names = {path.name for path in out.iterdir()}
    pictures = {"pairs.png", "velocities.png"}
    assert pictures | {"report.html", "metrics.json", "waterfall.csv"} < names
    metrics = json.loads((out / "metrics.json").read_text())
    whole = metrics["pairs"]["samples"][0]
    assert (whole["min_snr"], whole["n"]) == (20.0, summary["pairs, S/N > 20"])
    assert metrics["velocities"]["bias"] == pytest.approx(RV_BIAS, abs=1.0)
    with open(out / "waterfall.csv", newline="") as file:
        steps = list(csv.DictReader(file))
    assert list(steps[0].values()) == ["pairs", "pairs of the table", "0", str(len(pairs))]
    assert steps[-1]["left"] == str(metrics["velocities"]["n"])
    # Pairs that do not count are in the table, with the reason.
    written = read_table(out / "pairs.csv")
    assert (written["failed"].fillna("") == "").sum() == whole["n"] < len(written)
    assert written.attrs["units"]["delta_RV"] == "km / s"
    assert (written["primary_source_id"] >= 9 * 10**17).all()
    page = (out / "report.html").read_text()
    assert "Metallicities of wide pairs" in page
    assert "Velocities against Gaia" in page
    # All stars first, then bins of S/N.
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page[page.rindex("robust scatter") :])
    after = cells.index("stated error") + 1
    assert (cells[after], cells[after + 1]) == ("all", str(metrics["velocities"]["n"]))
    with pytest.raises(UsageError, match="exists"):
        crosscheck_files(paths["catalogue"], out, gaia=paths["gaia"])
    crosscheck_files(paths["catalogue"], out, gaia=paths["gaia"], overwrite=True)
    assert "pairs" not in json.loads((out / "metrics.json").read_text())


def test_nothing_to_compare_with_is_told_before_any_work(tmp_path):
    with pytest.raises(UsageError, match="--gaia"):
        crosscheck_files(tmp_path / "none.fits", tmp_path / "out")
    with pytest.raises(UsageError, match="--pairs"):
        crosscheck_files(
            tmp_path / "none.fits", tmp_path / "out", gaia="g.fits", primaries="p.fits"
        )
    assert not (tmp_path / "out").exists()


def test_figures_have_equal_axes_units_and_the_numbers_that_they_show(survey):
    catalogue, pairs, primaries, gaia, _ = survey
    found, velocities = check_pairs(catalogue, pairs, primaries), check_velocities(catalogue, gaia)
    figures = plot_checks(found, velocities)
    for name, unit, one in (
        ("pairs", "dex", found.samples[0].agreement),
        ("velocities", "km/s", velocities.agreement),
    ):
        top, bottom = figures[name].axes[:2]
        assert top.get_box_aspect() == 1.0
        assert top.get_xlim() == top.get_ylim()
        assert unit in bottom.get_xlabel()
        assert unit in bottom.get_ylabel()
        line = top.lines[0].get_xydata()
        np.testing.assert_array_equal(line[:, 0], line[:, 1])
        told = [text.get_text() for axis in figures[name].axes for text in axis.texts]
        told += [text.get_text() for box in figures[name].legends for text in box.texts]
        sign = f"{one.bias:+.3f}" if unit == "dex" else f"{one.bias:+.2f}"
        assert any(sign in text and str(one.n) in text for text in told)
    # Every pair that counts is drawn once, in the colour of its S/N.
    drawn = [len(points.get_offsets()) for points in figures["pairs"].axes[0].collections[:3]]
    counts = [one.agreement.n for one in found.samples] + [0]
    assert drawn == [before - after for before, after in itertools.pairwise(counts)]
    # Every star is in a cell, or said to be outside.
    cells = figures["velocities"].axes[0].collections[0].get_array()
    assert 0.98 * velocities.agreement.n < np.nansum(cells) <= velocities.agreement.n


def test_a_single_pair_and_a_single_star_can_be_drawn(survey):
    catalogue, pairs, primaries, gaia, _ = survey
    counted = check_pairs(catalogue, pairs, primaries).found.table
    row = counted["pair"][counted["failed"] == ""].iloc[0]
    one = check_pairs(catalogue, pairs.iloc[[row]], primaries.drop(columns="feh_err"))
    velocity = check_velocities(catalogue.drop(columns="e_RV"), gaia.iloc[[0]])
    assert one.samples[0].agreement.n == velocity.agreement.n == 1
    for figure in plot_checks(one, velocity).values():
        assert render_png(figure).startswith(b"\x89PNG")
    drawn = plot_checks(None, velocity)["velocities"]
    assert sum(np.nansum(axis.collections[0].get_array()) for axis in drawn.axes[:2]) == 2
