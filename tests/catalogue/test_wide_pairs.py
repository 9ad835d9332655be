"""Pairs are found by identifier and by position, and held against the paper's criteria."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.wide_pairs import PairConfig, match_pairs
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.quality import QualityFlag

N = 9


@pytest.fixture
def tables():
    """Nine pairs of El-Badry's form, of which each criterion removes one."""
    number = np.arange(N)
    pairs = pd.DataFrame(
        {
            "source_id1": 100 + number,
            "source_id2": 200 + number,
            "ra1": 10.0 + number,
            "dec1": np.full(N, 20.0),
            "ra2": 10.0 + number,
            "dec2": 20.0 + 10.0 / 3600.0,
            "pairdistance": np.full(N, 10.0 / 3600.0),
            "R_chance_align": np.full(N, 1e-4),
        }
    )
    primaries = pd.DataFrame(
        {
            "gaia_source_id": 100 + number,
            "teff": 5500.0,
            "feh": 0.1 * number - 0.4,
            "feh_err": 0.03,
            "rv": np.full(N, 12.0),
            "snrg": np.full(N, 40.0),
        }
    )
    catalogue = pd.DataFrame(
        {
            "source_id": 200 + number,
            "M_H": primaries["feh"] + 0.05,
            "e_M_H": 0.04,
            "RV": np.full(N, 10.0),
            "SNRr": np.full(N, 30.0),
            "flags": np.zeros(N, np.int32),
        }
    )
    return catalogue, pairs, primaries


def used(found):
    return found.table["pair"][found.table["failed"] == ""].tolist()


def test_each_criterion_removes_the_pair_that_fails_it_and_the_limit_itself_fails(tables):
    catalogue, pairs, primaries = tables
    pairs.loc[1, "R_chance_align"] = 0.01
    pairs.loc[2, "pairdistance"] = 3.0 / 3600.0
    primaries.loc[3, "rv"] = 20.0
    catalogue.loc[4, "SNRr"] = 5.0
    catalogue.loc[5, "flags"] = int(QualityFlag.BAD_CHI2)
    primaries.loc[6, "feh"] = -9999.0
    primaries.loc[7, "rv"] = np.nan
    found = match_pairs(catalogue, pairs, primaries)
    assert used(found) == [0, 8]
    assert [(one.name, one.removed, one.left) for one in found.waterfall] == [
        ("pairs of the table", 0, 9),
        ("secondary in the catalogue", 0, 9),
        ("labels of the primary", 0, 9),
        ("both metallicities known", 1, 8),
        ("no flag against the secondary", 1, 7),
        ("R_chance_align < 0.01", 1, 6),
        ("separation > 3 arcsec", 1, 5),
        ("|delta RV| < 10 km/s", 2, 3),
        ("SNRr > 5", 1, 2),
    ]
    row = found.table.set_index("pair").loc[8]
    assert row["delta_M_H"] == pytest.approx(0.05)
    assert row["e_delta_M_H"] == pytest.approx(0.05)
    assert row["delta_RV"] == pytest.approx(-2.0)
    assert row["separation"] == pytest.approx(10.0)
    assert (row["source_id"], row["primary_source_id"]) == (208, 108)


def test_criteria_are_options_and_can_be_switched_off(tables):
    catalogue, pairs, primaries = tables
    catalogue, pairs = catalogue.drop(columns="RV"), pairs.drop(columns="R_chance_align")
    with pytest.raises(UsageError, match="--max-r-chance-align inf"):
        match_pairs(catalogue, pairs, primaries)
    primaries.loc[0, "snrg"] = 10.0
    catalogue.loc[1, "flags"] = int(QualityFlag.BAD_CHI2)
    free = {"max_r_chance_align": np.inf, "max_delta_rv_kms": np.inf, "min_separation_arcsec": 0.0}
    assert used(match_pairs(catalogue, pairs, primaries, PairConfig(**free))) == [0, *range(2, N)]
    free |= {"min_primary_snr": 10.0, "keep_flagged": True}
    assert used(match_pairs(catalogue, pairs, primaries, PairConfig(**free))) == [*range(1, N)]
    free |= {"snr_thresholds": (30.0,)}
    with pytest.raises(WorkFailed, match=r"9 labels of the primary.*0 SNRr > 30"):
        match_pairs(catalogue, pairs, primaries, PairConfig(**free))
    with pytest.raises(UsageError, match="--snr-thresholds 5 20 50"):
        PairConfig(snr_thresholds=(20.0, 5.0))


def test_of_several_spectra_the_best_good_one_speaks_for_the_star(tables):
    catalogue, pairs, primaries = tables
    more = catalogue.iloc[[0, 0, 1]].assign(SNRr=[90.0, 60.0, 10.0], M_H=[9.0, 0.7, 0.8])
    more["flags"] = [int(QualityFlag.BAD_CHI2), 0, 0]
    again = primaries.iloc[[2, 3]].assign(snrg=[400.0, 4.0], feh=[0.33, 0.44])
    found = match_pairs(pd.concat([more, catalogue]), pairs, pd.concat([again, primaries]))
    table = found.table.set_index("pair")
    assert table["M_H"][[0, 1]].tolist() == pytest.approx([0.7, catalogue["M_H"][1]])
    assert table["SNRr"][[0, 1]].tolist() == [60.0, 30.0]
    expected = [0.33, primaries["feh"][3]]
    assert table["primary_M_H"][[2, 3]].tolist() == pytest.approx(expected)
    kept = match_pairs(
        pd.concat([more, catalogue]), pairs, primaries, PairConfig(keep_flagged=True)
    )
    # Nothing known against it counts for nothing then.
    assert kept.table.set_index("pair")["SNRr"][0] == 90.0


def test_stars_without_identifiers_go_by_position_at_the_epoch_of_the_survey(tables):
    catalogue, pairs, primaries = tables
    # 2 arcsec a year: after 16 years all stars are where other ones were.
    motion = {"pmra1": 0.0, "pmdec1": 2000.0, "pmra2": 0.0, "pmdec2": 2000.0}
    pairs = pairs.assign(**motion)
    place = {"ra": pairs["ra1"], "dec": pairs["dec1"] - 32.0 / 3600.0}
    primaries = primaries.drop(columns="gaia_source_id").assign(**place)
    catalogue["source_id"] = [0, -9999, *catalogue["source_id"][2:]]
    catalogue["RA"], catalogue["Dec"] = pairs["ra2"], pairs["dec2"] - 32.0 / 3600.0
    found = match_pairs(catalogue, pairs, primaries)
    assert used(found) == list(range(N))
    assert found.notes[0] == "secondaries were matched by source_id, position within 3 arcsec"
    np.testing.assert_allclose(found.table["delta_M_H"], 0.05)
    later = match_pairs(catalogue, pairs, primaries, PairConfig(radius_arcsec=30.0))
    assert used(later) == list(range(N))
    with pytest.raises(WorkFailed, match="no pair is left"):
        match_pairs(catalogue, pairs, primaries, PairConfig(epoch_yr=2016.0))


def test_separations_come_from_positions_where_no_column_has_them(tables):
    catalogue, pairs, primaries = tables
    pairs.loc[0, "dec2"] = 20.0 + 2.9 / 3600.0
    found = match_pairs(catalogue, pairs.drop(columns="pairdistance"), primaries)
    assert found.table["separation"].tolist() == pytest.approx([2.9] + [10.0] * (N - 1), abs=1e-4)
    assert used(found) == list(range(1, N))
    pairs.attrs["units"] = {"pairdistance": "arcsec"}
    in_arcsec = match_pairs(catalogue, pairs.assign(pairdistance=4.0), primaries)
    assert (in_arcsec.table["separation"] == 4.0).all()
    with pytest.raises(UsageError, match="pairdistance"):
        match_pairs(catalogue, pairs[["source_id1", "source_id2", "R_chance_align"]], primaries)


def test_an_offset_between_the_velocities_is_told(tables):
    catalogue, pairs, primaries = tables
    assert not any("km/s" in note for note in match_pairs(catalogue, pairs, primaries).notes)
    found = match_pairs(catalogue, pairs, primaries.assign(rv=18.0))
    assert any("-8.0 km/s off" in note for note in found.notes)


def test_tables_without_anything_in_common_are_refused(tables):
    catalogue, pairs, primaries = tables
    with pytest.raises(UsageError, match="nothing in common"):
        match_pairs(catalogue.drop(columns="source_id"), pairs, primaries)
    with pytest.raises(UsageError, match="--snr-column"):
        match_pairs(catalogue.drop(columns="SNRr"), pairs, primaries)
    with pytest.raises(UsageError, match=r"; and none that tells a star\. Remedy"):
        match_pairs(catalogue, pairs[[]], primaries)
