"""Known labels find their spectra, or are refused before any work."""

import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.workflows import transfer as stages
from jaxmdwarf.workflows.anchoring import (
    DEFAULT_ERRORS,
    LEAST_ERRORS,
    describe_anchors,
    find_anchors,
    find_common_stars,
    read_anchors,
    require_among,
)

SPACE = LabelSpace.mdwarf()
N = 8


def make_table(**columns):
    """Known stars 3 ... 10, of which the spectra below are 0 ... 7."""
    number = np.arange(3, 3 + N)
    table = {
        "obsid": 1000 + number,
        "Teff": 3300.0 + 20 * number,
        "Teff_err": 45.0,
        "[Fe/H]": -0.05 * number,
    }
    return pd.DataFrame({**table, **columns})


@pytest.fixture
def spectra():
    number = np.arange(N)
    return pd.DataFrame(
        {
            "ID": [f"J{one}" for one in number],
            "obsid": (1000 + number).astype(str),
            "RA": 10.0 + number,
            "Dec": 5.0,
            "spectrum": 0,
            "path": [f"night/star-{one}.fits" for one in number],
        }
    )


def without(table, *names):
    return table.drop(columns=list(names))


def test_labels_come_with_their_errors_or_with_ones_that_are_told():
    anchors = read_anchors(make_table(), SPACE)
    np.testing.assert_array_equal(anchors.labels[:, 0], 3360.0 + 20 * np.arange(N))
    np.testing.assert_allclose(anchors.labels[:, 2], -0.15 - 0.05 * np.arange(N))
    assert np.isnan(anchors.labels[:, [1, 3]]).all()
    assert (anchors.errors[:, 0] == 45.0).all()
    assert (anchors.errors[:, 2] == DEFAULT_ERRORS["mh"]).all()
    assert anchors.assumed == {"mh": DEFAULT_ERRORS["mh"]}


@pytest.mark.parametrize("way", ["obsid", "path", "position", "source_id"])
def test_spectra_are_found_by_whatever_the_table_has(spectra, way):
    number = np.arange(3, 3 + N)
    table = without(make_table(), "obsid")
    if way == "obsid":
        table["obsid"] = 1000.0 + number
    elif way == "path":
        table["file"] = [f"/elsewhere/star-{one}.fits" for one in number]
    elif way == "position":
        table["RAJ2000"], table["DEJ2000"] = 10.0 + number + 0.2 / 3600, 5.0
    else:
        table["source_id"] = [f"Gaia DR3 {10**15 + one}" for one in number]
        spectra["ID"] = [f"Gaia DR3 {10**15 + one}" for one in range(N)]
    columns = {"path": "file"} if way == "path" else {}
    found = find_anchors(spectra, read_anchors(table, SPACE, columns=columns), SPACE)
    assert found.sample.rows.tolist() == [3, 4, 5, 6, 7]
    np.testing.assert_array_equal(found.sample.labels[:, 0], 3360.0 + 20 * np.arange(5))
    assert found.report["matched"] == 5
    assert found.report["known"] == {"teff": 5, "mh": 5}
    assert way in found.report["matched_by"]


def make_reference(**columns):
    """Literature of stars 3 ... 10, as `read_references` gives it."""
    number = np.arange(3, 3 + N)
    table = {
        "teff": 3300.0 + 20 * number,
        "mh": -0.05 * number,
        "logg": 4.9,
        "e_teff": 60.0,
        "e_mh": np.nan,
        "ra_deg": 10.0 + number + 0.2 / 3600,
        "dec_deg": 5.0,
    }
    return pd.DataFrame({**table, **columns})


def test_stars_that_the_reference_shares_with_the_spectra_are_anchors(spectra):
    found = find_common_stars(spectra, make_reference(), SPACE)
    assert found.sample.rows.tolist() == [3, 4, 5, 6, 7]
    np.testing.assert_array_equal(found.sample.labels[:, 0], 3360.0 + 20 * np.arange(5))
    np.testing.assert_allclose(found.sample.labels[:, 2], -0.15 - 0.05 * np.arange(5))
    # Gravity of the literature is on scales of its own.
    assert np.isnan(found.sample.labels[:, [1, 3]]).all()
    assert (found.sample.errors[:, 0] == 60.0).all()
    assert (found.sample.errors[:, 2] == DEFAULT_ERRORS["mh"]).all()
    assert found.report["assumed_errors"] == {"mh": DEFAULT_ERRORS["mh"]}
    assert found.report["known"] == {"teff": 5, "mh": 5}
    assert found.report["matched_by"] == (
        "5 of 8 rows are of 5 stars of the reference, by position"
    )


def test_stated_errors_of_a_reference_are_internal_ones(spectra):
    sample = find_common_stars(spectra, make_reference(e_teff=5.0, e_mh=0.01), SPACE).sample
    assert (sample.errors[:, 0] == LEAST_ERRORS["teff"]).all()
    assert (sample.errors[:, 2] == LEAST_ERRORS["mh"]).all()


def test_visits_count_as_one_star_and_too_few_stars_are_none(spectra):
    four = make_reference()[:4]
    assert find_common_stars(spectra, four, SPACE) is None
    spectra.loc[7, "RA"] = spectra.loc[6, "RA"]
    assert find_common_stars(spectra, make_reference(), SPACE) is None
    assert find_common_stars(spectra, make_reference(ra_deg=np.nan), SPACE) is None


def test_of_very_many_common_stars_so_many_are_drawn_as_tell_the_scale(spectra):
    found = find_common_stars(spectra, make_reference(), SPACE, most=5)
    assert found.sample.rows.tolist() == [3, 4, 5, 6, 7]
    spectra.loc[:1, "RA"] = [18.0, 19.0]
    some = find_common_stars(spectra, make_reference(), SPACE, most=6).sample
    assert len(some.rows) == 6
    assert (np.diff(some.rows) > 0).all()
    assert set(some.rows) < {0, 1, 3, 4, 5, 6, 7}


def test_a_reference_that_disagrees_with_itself_is_not_called_another_table():
    report = {
        "offset_from_reference": {"teff": 40.0},
        "e_offset_from_reference": {"teff": 5.0},
    }
    (line,) = describe_anchors(report)
    assert line.startswith("anchors and reference disagree: Teff")
    (line,) = describe_anchors({**report, "source": "reference"})
    assert line.startswith("labels of the reference's stars and their distribution disagree")


def test_labels_beyond_the_emulator_are_unknown(spectra):
    reference = make_reference()
    reference.loc[0, "teff"], reference.loc[1, ["teff", "mh"]] = 6100.0, [6100.0, np.nan]
    spectra.loc[0, "RA"] = 18.0  # star 8 takes the place of one that says nothing
    found = find_common_stars(spectra, reference, SPACE)
    assert found.sample.rows.tolist() == [0, 3, 5, 6, 7]
    assert np.isnan(found.sample.labels[1, 0])
    assert found.sample.labels[1, 2] == pytest.approx(-0.15)
    assert found.report["known"] == {"teff": 4, "mh": 5}
    assert found.report["outside"] == 2


def test_a_path_that_is_of_several_spectra_tells_none(spectra):
    table = without(make_table(path=[f"star-{one}.fits" for one in range(3, 3 + N)]), "obsid")
    spectra.loc[5, "path"] = spectra.loc[4, "path"]
    spectra.loc[5, "spectrum"] = 1
    with pytest.raises(UsageError, match="only 3 of 8 usable spectra"):
        find_anchors(spectra, read_anchors(table, SPACE), SPACE)


def test_stars_beyond_the_emulator_are_left_out_and_counted(spectra):
    table = make_table()
    table.loc[N - 1, "Teff"] = 6100.0
    anchors = read_anchors(table, SPACE)
    assert anchors.counts == {"rows": N, "outside": 1}
    assert find_anchors(spectra, anchors, SPACE).report["outside"] == 1
    with pytest.raises(UsageError, match=r"no star of .* is within the range .*teff 2500 to 4600"):
        read_anchors(make_table(Teff=np.full(N, 6100.0)), SPACE)


@pytest.mark.parametrize(
    ("table", "columns", "match"),
    [
        (make_table(Teff=np.full(N, 0.3505)), {}, "median teff is 0.3505, which is not in K"),
        (without(make_table(), "obsid"), {}, "nothing tells which spectra"),
        (without(make_table(), "Teff", "[Fe/H]"), {}, "none of the labels teff, logg, mh"),
        (make_table(), {"teff": "TEFF_X"}, "no column 'TEFF_X'"),
        (make_table(), {"tefff": "Teff"}, "no quantity"),
        ("none.csv", {}, "there is no file none.csv"),
        ([1, 2], {}, "anchors is a list"),
    ],
)
def test_tables_of_no_use_are_refused(table, columns, match):
    with pytest.raises(UsageError, match=match):
        read_anchors(table, SPACE, columns=columns)


def test_spectra_of_other_stars_and_less_than_a_handful_are_refused(spectra):
    others = read_anchors(make_table(obsid=np.arange(N)), SPACE)
    with pytest.raises(UsageError, match="none of 8 usable spectra is of one of the 8 stars"):
        find_anchors(spectra, others, SPACE)
    with pytest.raises(UsageError, match="only 4 of 7 usable spectra"):
        find_anchors(spectra[:7], read_anchors(make_table(), SPACE), SPACE)
    gaia = read_anchors(without(make_table(source_id=10**15 + np.arange(N)), "obsid"), SPACE)
    with pytest.raises(UsageError, match="RA and Dec"):
        find_anchors(spectra, gaia, SPACE)


def test_paths_that_are_not_there_are_refused_before_files_are_read():
    names = [f"star-{one}.fits" for one in range(N)]
    by_path = read_anchors(without(make_table(path=names), "obsid"), SPACE)
    require_among(by_path, ["folder/star-3.fits"])
    with pytest.raises(UsageError, match="none of 1 files is among the 8 paths"):
        require_among(by_path, ["folder/other.fits"])
    # What goes by obsid, or is in a pack, is known once that is read.
    require_among(by_path, [PackPart("survey.zarr", "5f0c", 0, 256)])
    require_among(read_anchors(make_table(path=names), SPACE), ["folder/other.fits"])


def test_what_was_found_is_told():
    one = {"n": 40, "bias": 12.0, "e_bias": 5.0, "scatter": 61.0, "pull_mean": 0.1}
    report = {
        "n_fold": 5,
        "held_out": {"teff": {**one, "pull_width": 1.08}},
        "offset_from_reference": {"teff": 40.0, "mh": -0.02},
        "e_offset_from_reference": {"teff": 8.0, "mh": 0.01},
        "n_far": 2,
    }
    lines = describe_anchors(report)
    assert lines[0] == (
        "anchors held out (5 folds by star): Teff +12.0 ± 61.0 K, pulls +0.10 ± 1.08, 40 spectra"
    )
    # 40 K are five of their errors; 0.02 dex are two.
    assert "disagree: Teff" in lines[1]
    assert "+40.0 K (± 8.0 K)" in lines[1]
    assert lines[2].startswith("2 anchors")
    assert len(lines) == 3


def test_the_command_passes_anchors_on(monkeypatch, capsys):
    seen = {}

    def record(files, emulator, reference, out, options, **more):
        seen.update(options=options, **more)
        return {"out": out}

    monkeypatch.setattr(stages, "train_transfer_files", record)
    command = ["train-transfer", "a.fits", "--emulator", "E", "--out", "M", "--json"]
    more = ["--anchors", "known.csv", "--anchor-columns", "teff=T,ra=right", "e_mh=err"]
    assert main([*command, *more]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "M"}
    assert seen["anchors"] == "known.csv"
    assert seen["options"].anchor_columns == (("teff", "T"), ("ra", "right"), ("e_mh", "err"))
    assert main(command) == 0
    assert seen["anchors"] is None
    capsys.readouterr()
    assert main([*command, "--anchors", "k.csv", "--anchor-columns", "teff"]) == 2
