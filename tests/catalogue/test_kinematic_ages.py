"""One orbit a star, ages for its rows; the real zoomies where it is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.kinematic_ages import predict_ages
from jaxmdwarf.errors import UsageError
from jaxmdwarf.quality import QualityFlag

STAR = np.array([0, 0, 1, 2, 0])


@pytest.fixture
def table():
    rows = pd.DataFrame({"RA": [10.0, 10, 20, 30, 10], "Dec": 5.0, "pmRA": 3.0, "pmDE": -4.0})
    rows["Plx"] = [20.0, 20.0, -1.0, 10.0, 20.0]
    rows["RV"], rows["e_RV"] = [10.0, 20.0, 5.0, 7.0, 900.0], [1.0, 3.0, 1.0, 1.0, 1.0]
    rows["flags"] = np.array([0, 0, 0, 0, QualityFlag.VELOCITY_AT_EDGE], np.int32)
    return rows


@pytest.fixture
def zoomies(monkeypatch):
    """With its interface, and with a relation that anybody can follow: the age is ln of Jz."""
    seen = {}

    def calc_jz(orbits):
        print("Calculating actions with galpy...")
        seen["orbits"] = orbits.to_pandas()
        orbits["Jz"] = np.exp([2.0, 4.0])
        return orbits

    def evaluate_ages(action):
        grid = np.linspace(0, 14, 1401)
        return grid, np.exp(-0.5 * ((grid - action[:, None]) / 0.5) ** 2)

    def read(directory):
        seen["directory"] = directory
        return SimpleNamespace(evaluate_ages=evaluate_ages)

    monkeypatch.setitem(sys.modules, "zoomies", SimpleNamespace(read=read, calc_jz=calc_jz))
    return seen


def test_each_star_has_one_orbit_with_the_mean_velocity_of_its_good_visits(
    table, zoomies, tmp_path, capsys
):
    done = predict_ages(table, STAR, tmp_path)
    orbits = zoomies["orbits"]
    assert orbits["ra"].tolist() == [10.0, 30.0]
    assert orbits["radial_velocity"].tolist() == pytest.approx([(10 + 20 / 9) / (1 + 1 / 9), 7.0])
    assert zoomies["directory"].endswith("/")
    np.testing.assert_allclose(done["Age"], [2, 2, np.nan, 4, 2], atol=0.011)
    np.testing.assert_allclose(done["Age_mean"], [2, 2, np.nan, 4, 2], atol=0.011)
    assert capsys.readouterr() == ("", "")


def test_what_is_lacking_is_told(table, zoomies, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="ages need Plx, pmRA"):
        predict_ages(table.drop(columns=["Plx", "pmRA"]), STAR, tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        predict_ages(table, STAR, tmp_path / "none")
    monkeypatch.setitem(sys.modules, "zoomies", None)
    with pytest.raises(UsageError, match="cannot be imported") as caught:
        predict_ages(table, STAR, tmp_path)
    assert "[ages]" in caught.value.remedy


def test_the_real_package_makes_stars_on_tilted_orbits_older(table, tmp_path):
    zoomies = pytest.importorskip("zoomies")
    arviz = pytest.importorskip("arviz")
    relation = zoomies.KinematicAgeSpline(np.zeros(3), np.ones(3), np.ones(3))
    relation.set_initial_knots(np.linspace(-1, 15, 5), np.linspace(-1, 15, 15))
    knots = np.array([[[-2.0, 0.6, 0.4, 0.3, 0.2]]])
    relation.inf_data = arviz.from_dict(
        posterior={"age_knot_vals": knots, "lnV": np.full((1, 1), np.log(0.5))}
    )
    relation.write(directory=f"{tmp_path}/")
    north = table.assign(Plx=20.0, Dec=[0.0, 0.0, 0.0, 0.0, 0.0], RA=192.9, pmRA=0.0)
    north["pmDE"] = [-10.0, -10.0, -400.0, -900.0, -10.0]
    done = predict_ages(north, STAR, tmp_path)
    ages = done["Age"].to_numpy()
    assert ages[0] < ages[2] < ages[3]
    assert ((ages > 0) & (ages < 14)).all()
    assert (done["Age_mean"] > 0).all()
