"""Velocities beside Gaia's: which spectrum speaks for a star, and what each cut removes."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.gaia_velocities import GaiaVelocityConfig, match_gaia_velocities
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.quality import QualityFlag


@pytest.fixture
def tables():
    number = np.arange(8)
    gaia = pd.DataFrame(
        {
            "source_id": 50 + number,
            "radial_velocity": 10.0 * number,
            "radial_velocity_error": np.full(8, 4.0),
            "rv_nb_transits": np.full(8, 12),
        }
    )
    catalogue = pd.DataFrame(
        {
            "source_id": 50 + number,
            "RV": 10.0 * number + 3.0,
            "e_RV": 3.0,
            "SNRr": np.full(8, 20.0),
            "flags": np.zeros(8, np.int32),
        }
    )
    return catalogue, gaia


def test_without_cuts_every_star_with_both_velocities_counts_once(tables):
    catalogue, gaia = tables
    gaia.loc[1, "radial_velocity"] = np.nan
    catalogue.loc[2, "RV"] = np.nan
    catalogue.loc[3, "flags"] = int(QualityFlag.FALLBACK_VELOCITY)
    catalogue.loc[4, "flags"] = int(QualityFlag.VELOCITY_AT_EDGE)
    again = catalogue.iloc[[0, 5, 6]].assign(SNRr=[60.0, 10.0, 20.0], RV=[4.0, 0.0, 0.0])
    found = match_gaia_velocities(pd.concat([catalogue, again]), gaia)
    assert found.table["source_id"].tolist() == [50, 55, 56, 57]
    assert found.table["delta_RV"].tolist() == [4.0, 3.0, 3.0, 3.0]
    assert found.table["e_delta_RV"].tolist() == [5.0] * 4
    assert [(one.name, one.left) for one in found.waterfall] == [
        ("spectra of the catalogue", 11),
        ("a velocity", 10),
        ("no flag against it", 8),
        ("a star of Gaia's table", 8),
        ("best spectrum of its star", 5),
        ("a velocity of Gaia", 4),
    ]
    # A velocity out of a header is none of ours, whatever is kept.
    kept = match_gaia_velocities(catalogue, gaia, GaiaVelocityConfig(keep_flagged=True))
    assert kept.table["source_id"].tolist() == [50, 54, 55, 56, 57]


def test_each_cut_keeps_its_limit_and_removes_what_is_beyond_or_unknown(tables):
    catalogue, gaia = tables
    gaia["radial_velocity_error"] = [1, 2, 2.01, np.nan, 1, 1, 1, 1]
    gaia["rv_nb_transits"] = [9, 9, 9, 9, 5, 4, 9, 9]
    catalogue.loc[6, "SNRr"] = 10.0
    config = GaiaVelocityConfig(max_error_kms=2.0, min_transits=5, min_snr=10.0)
    found = match_gaia_velocities(catalogue, gaia, config)
    assert found.table["source_id"].tolist() == [50, 51, 54, 57]
    removed = {one.name: one.removed for one in found.waterfall}
    assert removed["SNRr > 10"] == removed["transits >= 5"] == 1
    assert removed["Gaia's error <= 2 km/s"] == 2
    with pytest.raises(WorkFailed, match="no star is left"):
        match_gaia_velocities(catalogue, gaia, GaiaVelocityConfig(min_transits=99))


def test_names_of_vizier_are_understood_and_missing_columns_told(tables):
    catalogue, gaia = tables
    renamed = gaia.set_axis(["Source", "RV", "e_RV", "o_RV"], axis=1)
    found = match_gaia_velocities(catalogue, renamed, GaiaVelocityConfig(4.0, 12))
    assert len(found.table) == 8
    assert found.table["gaia_e_RV"].tolist() == [4.0] * 8
    for gone, config in (
        ("radial_velocity", GaiaVelocityConfig()),
        ("radial_velocity_error", GaiaVelocityConfig(max_error_kms=3.0)),
        ("rv_nb_transits", GaiaVelocityConfig(min_transits=3)),
    ):
        with pytest.raises(UsageError, match="gaia_source"):
            match_gaia_velocities(catalogue, gaia.drop(columns=gone), config)
    without = match_gaia_velocities(catalogue, gaia.drop(columns="radial_velocity_error"))
    assert without.table["e_delta_RV"].tolist() == [3.0] * 8
    with pytest.raises(UsageError, match="no column of velocities"):
        match_gaia_velocities(catalogue.drop(columns="RV"), gaia)


def test_fast_stars_are_found_where_they_were(tables):
    catalogue, gaia = tables
    number = np.arange(8.0)
    gaia = gaia.drop(columns="source_id").assign(RA_ICRS=number, DE_ICRS=0.0, pmRA=0.0, pmDE=3000.0)
    catalogue = catalogue.drop(columns="source_id").assign(RA=number, Dec=-48.0 / 3600.0)
    assert len(match_gaia_velocities(catalogue, gaia).table) == 8
    with pytest.raises(WorkFailed):
        match_gaia_velocities(catalogue, gaia, GaiaVelocityConfig(epoch_yr=2016.0))
