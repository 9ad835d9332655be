"""`measure_files`: one row a spectrum in input order, everything else among the rejects."""

import csv
import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from jaxmdwarf.catalogue.rows import list_columns
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, doppler_factor
from jaxmdwarf.workflows.measuring import choose_velocity, measure_files, read_velocities
from jaxmdwarf.workflows.progress import Silent

CONTRACT = [
    *("ID", "obsid", "RA", "Dec", "SNRr", "SNRi", "Class", "Subclass", "SpT", "e_SpT", "RV_used"),
    *("Activity", "EW_Halpha", "e_EW_Halpha", "TiO5", "e_TiO5"),
]


def write_lamost(path, *, obsid, z=0.0, snr=20.0, rv_kms=0.0, ew=0.0, seed=0):
    """A dwarf with a TiO5 of 0.6, CaH and an Halpha line, moving at `rv_kms`, in the DR7 layout."""
    wave = 10.0 ** (3.5682 + 1e-4 * np.arange(3909))
    rest = wave / doppler_factor(rv_kms)
    flux = np.where((rest > 7125.0) & (rest < 7140.0), 60.0, 100.0)
    flux[(rest > 6812.0) & (rest < 6850.0)] = 65.0
    flux += 100.0 * ew * np.exp(-0.5 * ((rest - 6564.61) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    flux += np.random.default_rng(seed).normal(0, 0.1, wave.size)
    zeros = np.zeros(wave.size)
    image = np.stack([flux, np.full(wave.size, 100.0), wave, zeros, zeros]).astype(np.float32)
    hdu = fits.PrimaryHDU(image)
    for key, value in {
        "TELESCOP": "LAMOST",
        "OBSID": obsid,
        "Z": z,
        "SNRR": snr,
        "SNRI": snr,
        "COEFF0": 3.5682,
        "COEFF1": 1e-4,
        "RA": 10.0,
        "DEC": -5.0,
        "CLASS": "STAR",
        "SUBCLASS": "M2",
    }.items():
        hdu.header[key] = value
    hdu.writeto(path)


@pytest.fixture
def night(tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    beta = 120.0 / SPEED_OF_LIGHT_KMS
    write_lamost(folder / "a.fits", obsid=11, z=beta, rv_kms=120.0, ew=3.0)
    write_lamost(folder / "b.fits", obsid=12, z=-9999.0, snr=-9999.0, seed=1)
    shutil.copy(folder / "a.fits", folder / "c.fits")
    (folder / "d.txt").write_text("notes")
    write_lamost(folder / "e.fits", obsid=13, z=beta, rv_kms=900.0, ew=0.3, seed=2)
    return folder


def test_the_table_follows_the_contract_and_the_order_of_the_inputs(tmp_path, night):
    summary = measure_files([night / "e.fits", night], tmp_path / "T.fits", processes=1)
    assert (summary["inputs"], summary["measured"], summary["rejected"]) == (6, 3, 3)
    table = read_table(tmp_path / "T.fits")
    assert list(table.columns) == list_columns("measure")
    assert list(table.columns[: len(CONTRACT)]) == CONTRACT
    assert [path[-6:] for path in table["path"]] == ["e.fits", "a.fits", "b.fits"]
    assert list(table["obsid"]) == [13, 11, 12]
    assert list(table["ID"]) == ["J004000.00-050000.0"] * 3
    reasons = {r.path[-6:]: r.reason for r in read_rejects(tmp_path / "T_rejects.csv")}
    assert reasons["c.fits"].startswith("the same spectrum as")
    assert reasons["/d.txt"].startswith("not a FITS file")
    assert reasons["e.fits"].startswith("the same file as")


def test_rest_frame_activity_and_flags(tmp_path, night):
    measure_files([night], tmp_path / "T.parquet", processes=1)
    table = read_table(tmp_path / "T.parquet").set_index("obsid")
    assert table.loc[11, "RV_used"] == pytest.approx(120.0)
    assert table.loc[11, "TiO5"] == pytest.approx(0.6, abs=0.005)
    assert table.loc[11, "EW_Halpha"] == pytest.approx(3.0, abs=0.06)
    assert list(table["Activity"]) == [1, 0, 0]
    # Without a header velocity the spectrum is taken to be at rest, and says so.
    assert table.loc[12, "RV_used"] == 0.0
    assert table.loc[12, "flags"] == QualityFlag.NO_HEADER_VELOCITY
    assert table.loc[12, "SNRr"] == pytest.approx(1000.0, rel=0.02)
    assert table.loc[11, "flags"] == QualityFlag.OK
    assert table.loc[13, "TiO5"] > 0.9


@pytest.mark.parametrize(("key", "extension"), [("obsid", "csv"), ("path", "fits")])
def test_velocities_from_a_table(tmp_path, night, key, extension):
    values = {"obsid": ["11", "13"], "path": ["a.fits", str(night / "e.fits")]}[key]
    from jaxmdwarf.io.tables import write_table

    velocities = pd.DataFrame({key: values, "v": [120.0, 900.0]})
    write_table(velocities, tmp_path / f"v.{extension}")
    measure_files(
        [night],
        tmp_path / "T.csv",
        velocity_table=tmp_path / f"v.{extension}",
        velocity_column="v",
        processes=1,
    )
    table = read_table(tmp_path / "T.csv").set_index("obsid")
    # The header of this one is wrong by 780 km/s, 18 Angstrom at TiO5.
    assert table.loc[13, "RV_used"] == 900.0
    assert table.loc[13, "TiO5"] == pytest.approx(0.6, abs=0.005)
    assert table.loc[12, "flags"] & QualityFlag.NO_HEADER_VELOCITY


@pytest.mark.parametrize("extension", ["csv", "csv.gz", "fits"])
def test_sentinels_in_a_velocity_table_are_missing_velocities(tmp_path, night, extension):
    """-9999 as LAMOST writes it, 99999 as others do: such stars are as if not in the table."""
    velocities = pd.DataFrame({"obsid": [11, 12, 13], "rv": [-9999.0, 99999.0, 900.0]})
    path = tmp_path / f"v.{extension}"
    if extension == "fits":
        from jaxmdwarf.io.tables import write_table

        write_table(velocities, path)
    else:
        velocities.to_csv(path, index=False)
    said = []

    class Heard(Silent):
        def say(self, text):
            said.append(text)

    measure_files([night], tmp_path / "T.csv", velocity_table=path, processes=1, progress=Heard())
    table = read_table(tmp_path / "T.csv").set_index("obsid")
    assert table.loc[11, "RV_used"] == pytest.approx(120.0)
    assert table.loc[11, "flags"] == QualityFlag.FALLBACK_VELOCITY
    assert table.loc[12, "RV_used"] == 0.0
    assert table.loc[13, "RV_used"] == 900.0
    assert "2 of 3 velocities" in said[0]


def test_a_star_missing_from_the_velocity_table_falls_back_and_says_so():
    assert choose_velocity(1e-4, 3.0) == (3.0, QualityFlag.OK)
    rv, flags = choose_velocity(1e-4, np.nan)
    assert rv == pytest.approx(29.979, abs=1e-3)
    assert flags == QualityFlag.FALLBACK_VELOCITY
    assert choose_velocity(np.nan, np.nan) == (0.0, QualityFlag.NO_HEADER_VELOCITY)


def test_velocity_tables_without_sense_are_usage_errors(tmp_path):
    path = tmp_path / "v.csv"
    pd.DataFrame({"obsid": [1], "rv": [2.0], "name": ["x"]}).to_csv(path, index=False)
    assert read_velocities(path, "rv") == ({"1": 2.0}, 1, 0)
    with pytest.raises(UsageError, match="no column 'RV'"):
        read_velocities(path, "RV")
    with pytest.raises(UsageError, match="holds no velocity"):
        read_velocities(path, "name")
    pd.DataFrame({"star": [1], "rv": [2.0]}).to_csv(path, index=False)
    with pytest.raises(UsageError, match="neither a column obsid nor path"):
        read_velocities(path, "rv")


def test_nothing_usable_fails_after_writing_the_reasons(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(WorkFailed, match="none of 2 inputs was usable"):
        measure_files([tmp_path / "a.txt", tmp_path / "none.fits"], tmp_path / "T.fits")
    assert len(read_rejects(tmp_path / "T_rejects.csv")) == 2
    assert not (tmp_path / "T.fits").exists()


def test_an_impossible_output_is_told_before_any_work(tmp_path, night):
    with pytest.raises(UsageError, match="no table format"):
        measure_files([night], tmp_path / "T.doc")
    assert not list(tmp_path.glob("*rejects*"))


def test_a_second_run_into_the_input_folder_sees_only_spectra(night):
    first = measure_files([night], night / "T.csv", processes=1)
    with pytest.raises(UsageError, match="exists"):
        measure_files([night], night / "T.csv", processes=1)
    second = measure_files([night], night / "T.csv", processes=1, overwrite=True)
    assert first == second


def test_real_survey_folders_against_kastredux(tmp_path, real_data):
    """Every file accounted for; TiO5 and the sign of Halpha as an independent code has them."""
    arguments = [real_data / "lamost", real_data / "lamost_plate"]
    sdss = sorted(real_data.glob("sdss_*_lite.fits.gz"))
    summary = measure_files([*arguments, *sdss], tmp_path / "T.fits", processes=2)
    n_files = sum(len(list(folder.iterdir())) for folder in arguments) + len(sdss)
    assert summary["inputs"] == n_files == summary["measured"] + summary["rejected"]
    reasons = {r.path.rsplit("/", 1)[-1]: r.reason for r in read_rejects(summary["rejects"])}
    assert set(reasons) == {
        "index.csv",
        "spec-58575-HD103621N361936B01_sp03-018.fits.gz",
    }
    assert "12 % of the pixels" in reasons["spec-58575-HD103621N361936B01_sp03-018.fits.gz"]
    table = read_table(summary["table"])
    table.index = [path.rsplit("/", 1)[-1].removesuffix(".gz") for path in table["path"]]
    with open(real_data / "kastredux_indices_dev.csv", newline="") as file:
        theirs = {row["file"].rsplit("/", 1)[-1]: row for row in csv.DictReader(file)}
    both = [name for name in table.index if name in theirs]
    assert len(both) == 18
    bright = [name for name in both if table.loc[name, "SNRr"] > 10]
    difference = np.array(
        [table.loc[name, "TiO5"] - float(theirs[name]["TiO5"]) for name in bright]
    )
    assert np.median(np.abs(difference)) < 0.015
    assert np.max(np.abs(difference)) < 0.05
    for name in both:
        reference = -float(theirs[name]["EW_Ha"])
        if abs(reference) > 1.0:
            assert np.sign(table.loc[name, "EW_Halpha"]) == np.sign(reference)
    # What the survey calls M dwarfs are M dwarfs by TiO5.
    dwarfs = table[table["Subclass"].str.contains("M") & (table["SNRr"] > 15)]
    assert len(dwarfs) >= 18
    assert dwarfs["SpT"].between(-2, 5).mean() > 0.9
