"""Photometry beside spectra: published stars, a product of Gaussians, stars to be left alone."""

import csv

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.photometry import TEFF_SCATTER_K, add_photometry, read_photometry
from jaxmdwarf.catalogue.value_added import CatalogueConfig, add_values
from jaxmdwarf.errors import UsageError

STEFAN_BOLTZMANN, RSUN_CM, PC_CM = 5.6704e-5, 6.957e10, 3.0856776e18


def make_rows(n=1, **changes):
    """Stars of 3500 K at 10 pc, M_Ks 6, with an error of Teff that goes with that of [M/H]."""
    row = {
        "Teff": 3600.0,
        "e_Teff": 80.0,
        "Logg": 4.9,
        "e_Logg": 0.1,
        "M_H": -0.1,
        "e_M_H": 0.2,
        "corr_Teff_Logg": 0.3,
        "corr_Teff_M_H": 0.5,
        "corr_Logg_M_H": -0.2,
        "SNRr": 30.0,
        "Plx": 100.0,
        "e_Plx": 0.1,
        "Ksmag": 6.0,
        "Gmag": 9.5,
        "BPmag": 10.7,
        "RPmag": 8.35,
        "RUWE": 1.0,
        "VBFlag": 0,
    }
    return pd.DataFrame([{**row, **changes}] * n)


def test_the_stars_that_the_relations_were_made_of_come_back(real_data):
    """Distances are those that radius, Teff and bolometric flux of the table imply."""
    with (real_data / "mann15.stars.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ("Teff", "R", "M", "Fbol", "[Fe/H]", "Ksmag", "BPmag", "RPmag")
    given = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
    surface = STEFAN_BOLTZMANN * given["Teff"] ** 4
    distance = given["R"] * RSUN_CM * np.sqrt(surface / (1e-8 * given["Fbol"])) / PC_CM
    table = pd.DataFrame({name: given[name] for name in ("Ksmag", "BPmag", "RPmag", "Teff")})
    found = read_photometry(table.assign(Plx=1e3 / distance, e_Plx=0.01, M_H=given["[Fe/H]"]))
    away = found.teff - given["Teff"]
    assert np.isfinite(away).sum() > 170
    assert abs(np.nanmedian(away)) < 10
    assert np.nanstd(away) == pytest.approx(TEFF_SCATTER_K, abs=5)
    logg = 4.438 + np.log10(given["M"]) - 2 * np.log10(given["R"])
    assert abs(np.nanmedian(found.logg - logg)) < 0.01
    assert np.nanstd(found.logg - logg) < 0.045  # masses of the table have errors of their own
    # What G tells of Ks is as good as Ks, give or take its scatter.
    assert np.nanmedian(found.e_logg) == pytest.approx(0.026, abs=0.003)


def test_labels_are_those_of_a_fit_with_photometry_among_the_data():
    """The same by the normal equations of all data at once."""
    rows = make_rows()
    made, notes = add_photometry(rows)
    assert "log g of 1 and Teff of 1 of 1 rows" in notes[0]
    found = read_photometry(rows)
    names = ("Teff", "Logg", "M_H")
    errors = np.array([rows[f"e_{name}"][0] for name in names])
    correlation = np.array([[1, 0.3, 0.5], [0.3, 1, -0.2], [0.5, -0.2, 1]])
    spectrum = np.linalg.inv(correlation * errors * errors[:, None])
    at = rows[list(names)].to_numpy()[0]
    per_dex = (read_photometry(make_rows(M_H=0.9)).teff - found.teff)[0]
    directions = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, -per_dex]])
    measured = np.array([found.logg[0], found.teff[0] - per_dex * at[2]])
    weight = np.diag([found.e_logg[0] ** -2, found.e_teff[0] ** -2])
    information = spectrum + directions.T @ weight @ directions
    expected = np.linalg.solve(information, spectrum @ at + directions.T @ weight @ measured)
    covariance = np.linalg.inv(information)
    assert made[list(names)].to_numpy()[0] == pytest.approx(expected, rel=1e-9)
    new = np.sqrt(np.diag(covariance))
    assert [made[f"e_{name}"][0] for name in names] == pytest.approx(new)
    assert made["corr_Teff_M_H"][0] == pytest.approx(covariance[0, 2] / new[0] / new[2])
    assert made["PhotUsed"][0] == 3
    assert abs(expected[2] - at[2]) > 0.01  # [M/H] moves, for its error goes with those measured


@pytest.mark.parametrize(
    ("changes", "used"),
    [
        ({"RUWE": 1.5}, 0),
        ({"VBFlag": 2}, 0),
        ({"VBFlag": 1}, 3),
        ({"e_Plx": 11.0}, 2),
        ({"Plx": -1.0}, 2),
        ({"Ksmag": np.nan}, 3),
        ({"Ksmag": np.nan, "Gmag": np.nan}, 2),
        ({"BPmag": np.nan}, 1),
        ({"RPmag": 10.0}, 1),
        ({"Ksmag": 2.0}, 2),
        ({"Logg": 6.0}, 2),
        ({"e_Teff": np.nan}, 0),
        ({"RUWE": np.nan}, 3),
    ],
)
def test_photometry_speaks_where_it_can(changes, used):
    rows = make_rows(**changes)
    made, _ = add_photometry(rows)
    assert made["PhotUsed"].tolist() == [used]
    if not used:
        for name in ("Teff", "e_Teff", "Logg", "e_Logg", "M_H", "corr_Teff_M_H"):
            assert made[name].equals(rows[name])


def test_ks_is_told_by_g_with_a_larger_error():
    direct, by_g = (read_photometry(make_rows(Ksmag=ks)) for ks in (6.0, np.nan))
    assert by_g.logg[0] == pytest.approx(direct.logg[0], abs=0.1)
    assert by_g.e_logg[0] > 1.05 * direct.e_logg[0]


def test_repeats_come_first_and_cuts_last():
    """Two rows of one star: one photometry, which their scatter must not be shrunk by."""
    rows = make_rows(3, RA=10.0, Dec=5.0).assign(Teff=[4290.0, 4310.0, 4290.0], e_Teff=200.0)
    plain, both = (
        add_values(rows, CatalogueConfig(photometry=photometry)) for photometry in (False, True)
    )
    hot = [
        [one.failing for one in made.cuts.steps if one.name == "too_hot"] for made in (plain, both)
    ]
    assert hot == [[1], [0]]
    assert (both.table["Teff"] < 4000).all()
    assert "PhotUsed" not in plain.table
    assert any("photometry entered log g of 3" in note for note in both.notes)
    # Errors of such a table would be made anew from those of fits that knew of no photometry.
    for again in (True, False):
        with pytest.raises(UsageError, match="in the labels of this table already"):
            add_values(both.table, CatalogueConfig(photometry=again))
    assert len(add_values(plain.table).table) == 3


def test_what_it_needs_is_named():
    with pytest.raises(UsageError, match="neither BPmag and RPmag nor Plx"):
        add_photometry(make_rows().drop(columns=["BPmag", "Ksmag", "Gmag"]))
    with pytest.raises(UsageError, match="no Teff and no Logg"):
        add_photometry(make_rows().drop(columns=["e_Teff", "e_Logg"]))


def test_rows_that_a_gaia_table_knows_are_counted():
    rows = make_rows(3, Dec=5.0).assign(RA=[10.0, 20.0, 30.0])
    known = ["Gmag", "BPmag", "RPmag", "Plx", "e_Plx", "RUWE"]
    rows = rows.drop(columns=[name for name in known if name in rows])
    gaia = pd.DataFrame({"ra": [20.0, 50.0], "dec": 5.0, "parallax": [30.0, 31.0], "ruwe": 1.0})
    notes = [add_values(rows, gaia=one).notes for one in (gaia, gaia.assign(dec=-5.0))]
    assert [one[0] for one in notes] == [f"Gaia: {n} of 3 rows matched" for n in (1, 0)]
    assert not any(note.startswith("Gaia") for note in add_values(rows).notes)
