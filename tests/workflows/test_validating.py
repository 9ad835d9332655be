"""Catalogues against references of many shapes: guesses that are right, errors that help."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from jaxmdwarf.catalogue.positions import move_positions
from jaxmdwarf.catalogue.quantities import find_positions
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.workflows.validating import (
    ValidationConfig,
    find_column,
    validate_tables,
)
from jaxmdwarf.workflows.validation_report import plot_results, validate_files

N = 400


@pytest.fixture
def truth():
    rng = np.random.default_rng(8)
    return pd.DataFrame(
        {
            "obsid": np.arange(N) + 100,
            "file": [f"spec-{k}.fits.gz" for k in range(N)],
            "ra_deg": rng.uniform(0, 360, N),
            "dec_deg": rng.uniform(-10, 60, N),
            "teff": rng.uniform(3000, 4000, N),
            "logg": rng.uniform(4.6, 5.1, N),
            "mh": rng.normal(-0.1, 0.2, N),
            "alpha_m": rng.normal(0.1, 0.1, N),
            "rv_kms": rng.normal(0, 40, N),
            "kind": np.where(np.arange(N) % 20 == 0, "giant", "mdwarf"),
            "is_binary": (np.arange(N) % 20 == 1).astype(int),
            "failed": np.zeros(N, int),
        }
    )


@pytest.fixture
def catalogue(truth):
    """Biased by 25 K, errors too small by 2 in log g, honest otherwise; rows shuffled."""
    rng = np.random.default_rng(9)
    noise = rng.standard_normal((5, N))
    frame = pd.DataFrame(
        {
            "path": [f"/data/{name}" for name in truth["file"]],
            "obsid": truth["obsid"].astype(str),
            "RA": truth["ra_deg"],
            "Dec": truth["dec_deg"] + 0.5 / 3600,
            "SNRr": rng.uniform(6, 90, N),
            "Teff": truth["teff"] + 25 + 40 * noise[0],
            "e_Teff": 40.0,
            "Logg": truth["logg"] + 0.1 * noise[1],
            "e_Logg": 0.05,
            "M_H": truth["mh"] + 0.1 * noise[2],
            "e_M_H": 0.1,
            "alpha_M": truth["alpha_m"] + 0.05 * noise[3],
            "e_alpha_M": 0.05,
            "RV": truth["rv_kms"] + 3 * noise[4],
            "e_RV": 3.0,
            "flags": np.zeros(N, int),
        }
    )
    return frame.sample(frac=1.0, random_state=1).reset_index(drop=True)


def test_errors_of_the_reference_count_beside_those_of_the_catalogue(catalogue, truth):
    ours, theirs = catalogue.assign(e_Teff=24.0), truth.assign(e_teff=32.0)
    pulls = validate_tables(ours, theirs).metrics()["pulls"]["teff"]
    assert pulls["width"] == pytest.approx(1.0, rel=0.15)  # 24 and 32 are 40, the scatter


def test_what_was_put_in_comes_out(catalogue, truth):
    metrics = validate_tables(catalogue, truth).metrics()
    assert metrics["labels"]["teff"]["bias"] == pytest.approx(25, abs=8)
    assert metrics["labels"]["teff"]["scatter"] == pytest.approx(40, rel=0.15)
    assert metrics["pulls"]["teff"]["mean"] == pytest.approx(25 / 40, abs=0.2)
    assert metrics["pulls"]["logg"]["width"] == pytest.approx(2.0, rel=0.15)
    for honest in ("mh", "alpha_m", "rv"):
        assert metrics["pulls"][honest]["mean"] == pytest.approx(0.0, abs=0.2)
        assert metrics["pulls"][honest]["width"] == pytest.approx(1.0, rel=0.15)


def test_giants_binaries_and_flagged_rows_are_left_out_and_counted(catalogue, truth):
    single = catalogue["obsid"].astype(int) % 20 == 10
    catalogue.loc[single, "flags"] = int(QualityFlag.TEFF_AT_BOUND)
    # An index into the survey, not a reason to doubt a fit.
    catalogue.loc[~single, "flags"] = int(QualityFlag.NO_HEADER_VELOCITY)
    counts = validate_tables(catalogue, truth).counts
    assert counts == {
        "catalogue": N,
        "reference": N,
        "matched": N,
        "not_single": N // 10,
        "flagged": N // 20,
        "compared": N - N // 10 - N // 20,
    }
    kept = validate_tables(catalogue, truth, ValidationConfig(keep_flagged=True)).counts
    assert kept["compared"] == N - N // 10


@pytest.mark.parametrize("match", ["obsid", "path", "position", "auto"])
def test_every_way_of_matching_finds_the_same_stars(catalogue, truth, match):
    result = validate_tables(catalogue, truth, ValidationConfig(match=match))
    assert result.counts["matched"] == N
    ours = catalogue["obsid"].to_numpy(int)[result.rows]
    assert (ours == truth["obsid"].to_numpy()[result.reference_rows]).all()


def test_literature_tables_are_understood(catalogue, truth):
    """Names of CDS tables, sexagesimal positions, -9999 and text where there is no value."""
    from astropy.coordinates import SkyCoord

    place = SkyCoord(truth["ra_deg"], truth["dec_deg"], unit="deg")
    reference = pd.DataFrame(
        {
            "RAJ2000": place.ra.to_string(unit="hour", sep=" ", precision=3),
            "DEJ2000": place.dec.to_string(sep=" ", precision=2, alwayssign=True),
            "Teff": truth["teff"].astype(str),
            "e_Teff": 30.0,
            "[Fe/H]": truth["mh"],
        }
    )
    reference.loc[0, "Teff"] = "-9999"
    reference.loc[1, "Teff"] = "n/a"
    result = validate_tables(catalogue, reference)
    assert result.counts["compared"] == N
    assert result.comparisons["teff"].recovery.n == N - 2
    assert result.comparisons["teff"].recovery.bias == pytest.approx(25, abs=8)
    # The error of the reference enters in quadrature: 50 K together.
    assert result.comparisons["teff"].pulls.mean == pytest.approx(25 / 50, abs=0.2)
    assert any("[Fe/H], which is not the same quantity" in note for note in result.notes)
    assert any(
        note.startswith("1 of 400 numbers of the reference in Teff") for note in result.notes
    )


def test_columns_can_be_named(catalogue, truth):
    reference = truth[["obsid"]].assign(mine=truth["teff"] - 1000.0, teff=truth["teff"])
    guessed = validate_tables(catalogue, reference).comparisons["teff"].recovery.bias
    told = validate_tables(
        catalogue, reference, ValidationConfig(columns=(("teff", "mine"),))
    ).comparisons["teff"]
    assert told.recovery.bias == pytest.approx(guessed + 1000)


@pytest.mark.parametrize(
    ("columns", "quantity", "expected"),
    [
        (["TEFF"], "teff", "TEFF"),
        (["M_H_APOGEE", "FE_H"], "mh", "M_H_APOGEE"),
        (["FE_H"], "mh", "FE_H"),
        (["_RA", "_DE"], "ra", "_RA"),
        (["_RAJ2000", "_DEJ2000"], "dec", "_DEJ2000"),
        (["RV_APOGEE_ERR"], "rv", None),
        (["teff_prior"], "teff", None),
    ],
)
def test_guesses(columns, quantity, expected):
    assert find_column(pd.DataFrame(columns=columns), quantity) == expected


def test_nothing_to_compare_says_what_there_is(catalogue, truth):
    with pytest.raises(UsageError, match="photometry"):
        validate_tables(catalogue, truth[["obsid"]].assign(photometry=1.0))
    with pytest.raises(UsageError, match="belong together"):
        validate_tables(catalogue, truth[["teff"]])
    with pytest.raises(UsageError, match="no column 'T'"):
        validate_tables(catalogue, truth, ValidationConfig(columns=(("teff", "T"),)))
    with pytest.raises(UsageError, match="colour"):
        ValidationConfig(columns=(("colour", "T"),))


def test_no_common_star_is_failed_work(catalogue, truth):
    with pytest.raises(WorkFailed, match="none of 400"):
        validate_tables(
            catalogue, truth.assign(obsid=truth["obsid"] + 9000), ValidationConfig(match="obsid")
        )
    catalogue["flags"] = int(QualityFlag.LOW_SNR)
    with pytest.raises(WorkFailed, match="360 are flagged"):
        validate_tables(catalogue, truth)


def test_products_on_disk(tmp_path, catalogue, truth):
    write_table(catalogue, tmp_path / "c.fits")
    truth.to_csv(tmp_path / "t.csv.gz", index=False)
    out = tmp_path / "check"
    summary = validate_files(tmp_path / "c.fits", tmp_path / "t.csv.gz", out)
    assert summary["compared"] == 360
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["labels"]["teff"]["bias"] == pytest.approx(summary["teff_bias"], abs=1e-3)
    rows = pd.read_csv(out / "by_snr.csv")
    assert rows[rows["quantity"] == "mh"]["n"].sum() == 360
    for name in ("agreement", "catalogues", "recovery", "by_snr", "pulls"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in (out / "report.html").read_text()


@pytest.mark.parametrize("extension", ["fits", "vot", "parquet", "ecsv"])
def test_columns_of_vectors_are_left_out(tmp_path, catalogue, truth, extension):
    """As APOGEE, SDSS and DESI publish theirs: labels beside parameters of the pipeline."""
    plain = Table({"obsid": truth["obsid"].to_numpy(), "TEFF": truth["teff"].to_numpy()})
    plain["FPARAM"] = np.zeros((N, 9), np.float32)
    path = tmp_path / f"vector.{extension}"
    if extension == "parquet":
        vectors = pd.DataFrame({"obsid": truth["obsid"], "TEFF": truth["teff"]})
        vectors.assign(FPARAM=[[0.0] * 9] * N).to_parquet(path)
    else:
        plain.write(path, format={"vot": "votable", "ecsv": "ascii.ecsv"}.get(extension))
    reference = read_table(path)
    assert list(reference.columns) == ["obsid", "TEFF"]
    assert reference.attrs["vectors"] == ["FPARAM"]
    assert validate_tables(catalogue, reference).comparisons["teff"].recovery.n == N
    with pytest.raises(UsageError, match=r"'FPARAM' of the reference .* holds vectors"):
        validate_tables(catalogue, reference, ValidationConfig(columns=(("teff", "FPARAM"),)))


def test_tables_that_are_missing_or_broken(tmp_path):
    with pytest.raises(UsageError, match="no table"):
        read_table(tmp_path / "none.csv.gz")
    with pytest.raises(UsageError, match="there is no table"):
        read_table(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="names no table format"):
        read_table(tmp_path / "file")
    with pytest.raises(UsageError, match="is a file"):
        validate_files("a.fits", "b.csv", tmp_path / "file")


def test_a_full_disk_is_told_before_tables_are_read(tmp_path, full_disk):
    with pytest.raises(UsageError, match=r"are needed and 1\.0 kB are free"):
        validate_files("a.fits", "b.csv", tmp_path / "check")


@pytest.mark.parametrize(
    "name",
    ["mann15.stars.csv", "gaidos14.csv", "rajpurohit18.csv", "birky2020_safe_minus_holdout.csv.gz"],
)
def test_real_literature_tables_are_matched_by_position(real_data, name):
    """A catalogue made of the table itself comes back without bias."""
    reference = read_table(real_data / name)
    teff = find_column(reference, "teff")
    right, declination, _ = find_positions(reference)
    catalogue = pd.DataFrame(
        {
            "RA": right,
            "Dec": declination,
            "Teff": pd.to_numeric(reference[teff], errors="coerce") + 10.0,
            "e_Teff": 10.0,
            "SNRr": 30.0,
        }
    )
    result = validate_tables(catalogue, reference)
    assert result.counts["matched"] > 0.95 * len(reference)
    assert result.comparisons["teff"].recovery.bias == pytest.approx(10.0)


def test_a_comparison_that_was_stopped_leaves_nothing_in_the_way(
    catalogue, truth, tmp_path, monkeypatch
):
    paths = [tmp_path / "catalogue.parquet", tmp_path / "truth.parquet"]
    for table, path in zip((catalogue, truth), paths, strict=True):
        write_table(table, path)
    out = tmp_path / "judged"
    # Figures are drawn in other tests.
    figures = ("agreement", "catalogues", "recovery", "by_snr", "pulls")
    monkeypatch.setattr("jaxmdwarf.plots.style.render_png", lambda figure: b"a picture")
    monkeypatch.setattr(
        "jaxmdwarf.workflows.validation_report.plot_results",
        lambda *arguments: {name: (None, f"the figure of {name}") for name in figures},
    )

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxmdwarf.report.page.write_report", stop)
        with pytest.raises(KeyboardInterrupt):
            validate_files(*paths, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    validate_files(*paths, out)
    names = {"by_snr.csv", "metrics.json", "report.html", "agreement.csv", "agreement.md"}
    names |= {f"{name}.png" for name in figures}
    assert {path.name for path in out.iterdir()} == names
    (out / "notes.txt").write_text("mine")
    (out / "metrics.json").write_text("old")
    validate_files(*paths, out, overwrite=True)
    assert {path.name for path in out.iterdir()} == {*names, "notes.txt"}
    assert json.loads((out / "metrics.json").read_text())["counts"]["compared"] > 0


def test_large_references_are_drawn_as_density_and_beside_the_catalogue(catalogue, truth):
    catalogue = catalogue.assign(Gmag=15.0, BPmag=16.0, RPmag=14.0, Plx=10.0, e_Plx=0.1)
    several = pd.concat([catalogue] * 2, ignore_index=True)
    no_mh = truth.drop(columns=["mh", "alpha_m"])
    options = ValidationConfig(match="path")
    results = {
        "large": validate_tables(several, truth, options),
        "small": validate_tables(catalogue, truth, options),
        "no [M/H]": validate_tables(several, no_mh, options),
    }
    figures = plot_results(results, several)
    assert set(figures) == {"agreement", "densities", "catalogues"}
    # Labels of figure 15, of the two references with more than 500 rows.
    density = figures["densities"][0].axes
    assert [axis.get_title() for axis in density[:3]] == ["Teff (K)", "log g (dex)", "[M/H] (dex)"]
    assert density[0].texts[0].get_text().startswith("n = 720\nbias +")
    assert density[8].texts[0].get_text() == "not given"
    diagrams = figures["catalogues"][0].axes
    names = [axis.get_title() for axis in diagrams[:3]]
    assert names == ["this catalogue\n(n = 720)", "large\n(n = 720)", "small\n(n = 360)"]
    measured, known = (np.asarray(axis.collections[0].get_offsets()) for axis in diagrams[3:5])
    assert np.median(measured[:, 0] - known[:, 0]) == pytest.approx(25.0, abs=6.0)
    few = {"small": results["small"]}
    assert set(plot_results(few)) == {"agreement", "recovery", "by_snr", "pulls"}
    assert "catalogues" not in plot_results({"no [M/H]": results["no [M/H]"]}, several)


@pytest.fixture
def nearby():
    """Stars that move by 1 to 3 arcsec a year: positions of 2000 and of 2016."""
    rng = np.random.default_rng(5)
    n = 40
    stars = pd.DataFrame(
        {
            "RA": np.linspace(5, 350, n),
            "Dec": np.linspace(-60, 80, n),
            "pmRA": rng.uniform(1000, 2000, n) * rng.choice([-1, 1], n),
            "pmDE": rng.uniform(1000, 2000, n) * rng.choice([-1, 1], n),
            "Teff": rng.uniform(3000, 4000, n),
        }
    )
    ra, dec = move_positions(
        *(stars[key].to_numpy() for key in ("RA", "Dec", "pmRA", "pmDE")), 16.0
    )
    return stars, stars.assign(RA_ICRS=ra, DE_ICRS=dec).drop(columns=["RA", "Dec"])


@pytest.mark.parametrize("mover", ["catalogue", "reference", "neither"])
def test_whichever_table_knows_motions_is_moved_to_the_epoch_of_the_other(nearby, mover):
    ours, theirs = nearby
    if mover != "catalogue":
        ours = ours.drop(columns=["pmRA", "pmDE"])
    if mover != "reference":
        theirs = theirs.drop(columns=["pmRA", "pmDE"])
    if mover == "neither":
        with pytest.raises(WorkFailed, match=r"2000, the reference's of 2016, and neither has"):
            validate_tables(ours, theirs)
        return
    result = validate_tables(ours, theirs, ValidationConfig(radius_arcsec=0.1))
    assert (result.rows == result.reference_rows).all()
    assert result.counts["compared"] == len(ours)
    assert any(f"with the proper motions of the {mover}" in note for note in result.notes)


def test_the_epoch_of_the_catalogue_can_be_told(nearby):
    ours, theirs = nearby
    moved = theirs.rename(columns={"RA_ICRS": "RA", "DE_ICRS": "Dec"})
    reference = ours.rename(columns={"RA": "RAJ2000", "Dec": "DEJ2000"})
    options = ValidationConfig(radius_arcsec=0.1, epoch_yr=2016.0)
    assert validate_tables(moved, reference, options).counts["compared"] == len(ours)
    with pytest.raises(WorkFailed, match="none of 40"):
        validate_tables(moved, reference, ValidationConfig(radius_arcsec=0.1))


def test_stars_are_matched_by_gaia_identifiers_however_they_are_written(nearby):
    numbers = 4_000_000_000_000_000_001 + 2 * np.arange(40)
    ours, theirs = nearby[0].assign(source_id=numbers), nearby[1][::-1].reset_index(drop=True)
    theirs = theirs[["Teff"]].assign(GaiaDR3=[f"Gaia DR3 {number}" for number in numbers[::-1]])
    result = validate_tables(ours, theirs)
    assert (result.reference_rows == 39 - result.rows).all()
    assert result.counts["compared"] == 40
    # As floats they would be 512 apart, and all of a field one star.
    with pytest.raises(WorkFailed, match="none of 40"):
        validate_tables(ours, theirs.assign(GaiaDR3=numbers.astype(float)))


def test_published_tables_are_recognised_named_or_left_alone(nearby):
    ours, _ = nearby
    reference = ours.rename(columns={"RA": "RAJ2000", "Dec": "DEJ2000"})
    reference = reference.assign(Teff=ours["Teff"] - 30, TEFF_APOGEE=0, M_H_APOGEE=0.0)
    reference = reference.assign(TEFF=ours["Teff"] - 10.0, FE_H=0.1)
    seen = validate_tables(ours, reference)
    assert seen.comparisons["teff"].recovery.bias == pytest.approx(10.0)
    assert seen.notes[0].startswith("the reference is Birky et al. (2020)")
    other = validate_tables(ours, reference, ValidationConfig(kind="other"))
    assert other.comparisons["teff"].recovery.bias == pytest.approx(30.0)
    named = validate_tables(ours, reference, ValidationConfig(kind="mann2015"))
    assert named.comparisons["teff"].recovery.bias == pytest.approx(30.0)
    # What a user names goes before what is known of a table.
    told = ValidationConfig(columns=(("teff", "Teff"),))
    assert validate_tables(ours, reference, told).comparisons["teff"].recovery.bias == (
        pytest.approx(30.0)
    )
    with pytest.raises(UsageError, match="no published table is called 'mann'"):
        ValidationConfig(kind="mann")


def test_several_references_give_one_table_and_one_figure(nearby, tmp_path):
    ours, theirs = nearby
    ours.assign(SNRr=60.0).to_csv(tmp_path / "c.csv", index=False)
    theirs.assign(Teff=theirs["Teff"] - 20.0).to_csv(tmp_path / "warm.csv", index=False)
    theirs.assign(Teff=theirs["Teff"] + 50.0).to_csv(tmp_path / "cool.csv", index=False)
    far = theirs.assign(DE_ICRS=-theirs["DE_ICRS"] - 7.0)
    far.to_csv(tmp_path / "far.csv", index=False)
    paths = [tmp_path / name for name in ("warm.csv", "cool.csv", "far.csv")]
    out = tmp_path / "out"
    summary = validate_files(tmp_path / "c.csv", paths, out)
    assert [one["teff_bias"] for one in (summary["warm.csv"], summary["cool.csv"])] == (
        pytest.approx([20.0, -50.0])
    )
    rows = pd.read_csv(out / "agreement.csv")
    every = rows[rows["by"] == "all"].set_index("reference")
    assert every["bias"].to_dict() == pytest.approx({"warm.csv": 20.0, "cool.csv": -50.0})
    assert rows[rows["by"] == "reference"].groupby("reference")["n"].sum().tolist() == [40, 40]
    lines = (out / "agreement.md").read_text().splitlines()
    assert sum(line.startswith("| warm.csv | Teff (K) |") for line in lines) == 2
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["references"]) == {"warm.csv", "cool.csv"}
    assert any(note.startswith("far.csv: left out, for none of 40") for note in metrics["notes"])
    assert {path.name for path in out.glob("*.png")} == {"agreement.png"}
    with pytest.raises(UsageError, match="3 references and 1 kinds"):
        validate_files(tmp_path / "c.csv", paths, tmp_path / "no", kinds=["mann2015"])
    with pytest.raises(WorkFailed, match="none of 40"):
        validate_files(tmp_path / "c.csv", paths[2:], tmp_path / "no")
