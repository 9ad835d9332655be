"""Tables of fits to the value-added catalogue: no row is lost, and what was done is told."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.catalogue.columns import TABLE_1
from jaxmdwarf.catalogue.cuts import CutConfig
from jaxmdwarf.catalogue.value_added import CatalogueConfig
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.provenance import Provenance, hash_files
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.plots.kiel import plot_kiel
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.workflows import cataloguing
from jaxmdwarf.workflows.catalogue_figures import plan_figures
from jaxmdwarf.workflows.cataloguing import catalogue_files, describe_others, merge_fits

N_STAR = 700
TOLD = Provenance(
    "0.1.0",
    "2026-01-02T03:04:05Z",
    "jaxmdwarf fit",
    model_hash="abc",
    notes={"label_bounds": "teff 2500 4600, logg 4 6", "model_trained_on": "a simulation"},
)


def make_fits():
    rng = np.random.default_rng(0)
    star = np.repeat(np.arange(N_STAR), rng.integers(1, 6, N_STAR))
    n = star.size
    snr = np.exp(rng.uniform(np.log(6), np.log(120), n))
    table = pd.DataFrame({"ID": [f"star {one}" for one in star], "obsid": np.arange(n) + 100})
    table["RA"] = rng.uniform(0, 360, N_STAR)[star]
    table["Dec"] = rng.uniform(-10, 60, N_STAR)[star]
    table["SNRr"], table["SNRi"] = snr, 1.2 * snr
    table["Subclass"], table["SpT"], table["Activity"] = "M1", 1.0, np.int32(0)
    for name, middle, a, b in (
        ("RV", 0.0, 66.7, 3.03),
        ("Teff", 3500.0, 433.0, 17.7),
        ("Logg", 4.9, 0.55, 0.015),
        ("M_H", -0.2, 1.0, 0.04),
    ):
        table[name] = middle + rng.normal(0, 5 * b, N_STAR)[star]
        table[name] += (a / snr + b) * rng.normal(size=n)
        table[f"e_{name}"] = b
    table["Teff"] = np.clip(table["Teff"], 3000, 4200)
    table.loc[3, "Teff"], table["chi2_red"] = 4400.0, 1.0
    table.loc[5, "chi2_red"] = 70.0
    table["flags"] = np.where(np.arange(n) == 5, int(QualityFlag.BAD_CHI2), 0).astype(np.int32)
    table["good"] = table["flags"] == 0
    table["spectrum"], table["path"] = np.int32(0), [f"s{one}.fits" for one in range(n)]
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tables of fits that share rows, Gaia, lists of stars, ages."""
    folder = tmp_path_factory.mktemp("fits")
    fits = make_fits()
    write_table(fits.iloc[:900], folder / "one.parquet", provenance=TOLD)
    write_table(fits.iloc[880:].assign(path="copy"), folder / "two.fits", provenance=TOLD)
    first = fits.drop_duplicates("ID")
    gaia = pd.DataFrame({"source_id": 10**18 + np.arange(N_STAR), "ra": first["RA"]})
    gaia["dec"], gaia["pmra"], gaia["pmdec"] = first["Dec"].to_numpy(), 0.0, 0.0
    gaia["phot_g_mean_mag"] = gaia["phot_bp_mean_mag"] = gaia["phot_rp_mean_mag"] = 15.0
    gaia["parallax"], gaia["parallax_error"], gaia["ruwe"] = 10.0, 0.1, 1.0
    write_table(gaia, folder / "gaia.fits")
    write_table(gaia[["source_id"]].iloc[[7, 9]], folder / "vari.summary.csv")
    write_table(gaia[["ra", "dec"]].iloc[[9, 11]], folder / "sb9.vot")
    pd.DataFrame({"obsid": [110, 111], "Age": [0.5, 2.0]}).to_csv(folder / "ages.csv", index=False)
    return folder


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Figures are drawn in tests that look at them alone."""
    if "figures" not in request.node.name:
        monkeypatch.setattr(cataloguing, "write_figures", lambda *arguments, **options: [])


def make(folder, out, **options):
    inputs = [folder / "one.parquet", folder / "two.fits"]
    return catalogue_files(
        inputs,
        out,
        gaia=folder / "gaia.fits",
        variables=[folder / "vari.summary.csv"],
        binaries=[folder / "sb9.vot"],
        ages=folder / "ages.csv",
        **options,
    )


@pytest.mark.parametrize("paper_cuts", [False, True])
def test_every_row_is_in_the_catalogue_or_in_the_rejects(folder, tmp_path, paper_cuts):
    out = tmp_path / "CAT.fits"
    summary = make(folder, out, config=CatalogueConfig(paper_cuts=paper_cuts))
    table, rejects = read_table(out), read_rejects(tmp_path / "CAT_rejects.csv")
    n_in = len(make_fits()) + 20
    assert summary["inputs"] == n_in == len(table) + len(rejects)
    repeated = [one for one in rejects if "earlier table" in one.reason]
    assert len(repeated) == 20
    reasons = {one.path: one.reason for one in rejects if one not in repeated}
    if paper_cuts:
        assert reasons["s3.fits"] == "Teff above 4300 K"
        assert reasons["s5.fits"] == "reduced chi-square above 50"
        assert reasons["s10.fits"] == "age below 1 Gyr"
        assert table["good"].all()
        assert table["Teff"].max() <= 4300
    else:
        assert not reasons
        flags = table["flags"].to_numpy()
        assert flags[3] & int(QualityFlag.TOO_HOT)
        assert flags[5] & int(QualityFlag.BAD_CHI2)
        assert flags[10] & int(QualityFlag.YOUNG)
        assert table["obsid"].tolist() == make_fits()["obsid"].tolist()
    with open(tmp_path / "CAT_waterfall.csv", newline="") as file:
        waterfall = list(csv.DictReader(file))
    assert list(waterfall[0].values())[2:] == ["0", "0", str(n_in)]
    assert sum(int(one["removed"]) for one in waterfall) == n_in - int(waterfall[-1]["left"])
    assert (int(waterfall[-1]["left"]) == len(table)) is paper_cuts


def test_the_catalogue_has_table_1_with_total_errors_and_flags(folder, tmp_path):
    summary = make(folder, tmp_path / "CAT.parquet")
    table = read_table(tmp_path / "CAT.parquet")
    assert set(TABLE_1) <= set(table.columns)
    assert [name for name in table.columns if name in TABLE_1] == list(TABLE_1)
    star = make_fits()["ID"].str.removeprefix("star ").astype(int).to_numpy()
    assert pd.factorize(star)[0].tolist() == table["star"].tolist()
    assert table["n_visits"].tolist() == np.bincount(star)[star].tolist()
    assert (
        table["VBFlag"].tolist() == np.select([np.isin(star, [7, 9]), star == 11], [1, 2]).tolist()
    )
    assert set(table["VBTables"]) == {"", "vari.summary", "vari.summary+sb9", "sb9"}
    assert summary["matched"] == {
        "vari.summary": np.isin(star, [7, 9]).sum(),
        "sb9": np.isin(star, [9, 11]).sum(),
    }
    metrics = json.loads((tmp_path / "CAT_metrics.json").read_text())
    for name, (a, b) in {"Teff": (433.0, 17.7), "M_H": (1.0, 0.04), "RV": (66.7, 3.03)}.items():
        found = metrics["repeats"][name]
        assert found["a"] == pytest.approx(a, abs=4 * found["e_a"])
        assert found["b"] == pytest.approx(b, abs=4 * found["e_b"])
        snr = table["SNRr"].to_numpy()
        repeat = found["a"] / snr + found["b"]
        np.testing.assert_allclose(table[f"e_repeat_{name}"], repeat)
        excess2 = np.stack([snr**-2.0, 1 / snr, np.ones_like(snr)], axis=1) @ found["excess"]
        total = np.sqrt(table[f"e_fit_{name}"] ** 2 + excess2)
        np.testing.assert_allclose(table[f"e_{name}"], total)
        # The fits state b, which the scatter holds already.
        np.testing.assert_allclose(total, repeat, rtol=0.15)
    assert metrics["counts"]["stars"] == N_STAR
    assert table.attrs["units"]["e_fit_Teff"] == table.attrs["units"]["e_repeat_Teff"] == "K"


def test_figures_are_drawn_of_what_a_catalogue_has_and_others_do_not_stay(
    folder, tmp_path, monkeypatch
):
    out, lines = tmp_path / "CAT.parquet", tmp_path / "lines.csv"
    rows = [f"{feh},9.7,{m},{3000 + m * 1000},{m}" for feh in (-1, 0) for m in (0.1, 0.5)]
    lines.write_text("\n".join(["feh,log_age,Mini,Teff,radius", *rows]))
    given = []

    def draw(*samples, isochrones):
        given.append(isochrones)
        return plot_kiel(*samples, isochrones=isochrones)

    monkeypatch.setattr("jaxmdwarf.plots.kiel.plot_kiel", draw)
    names = {"precision", "sky", "kiel", "hr", "hr_active", "types"}
    told = make(folder, out, isochrones=[lines])["figures"]
    assert given[0].title == "isochrones, 5 Gyr"
    assert hash_files(lines) in read_table(out).attrs["provenance"]["inputs"]
    # No star of these tables shows emission.
    drawn = names - {"hr_active"}
    assert set(told.split(", ")) == {f"CAT_{name}.png" for name in drawn}
    assert {path.name for path in tmp_path.glob("*.png")} == set(told.split(", "))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    table = read_table(folder / "one.parquet").drop(columns=["SpT", "M_H", "e_M_H"])
    write_table(table.iloc[:20].assign(RA=np.nan), tmp_path / "few.parquet")
    assert catalogue_files([tmp_path / "few.parquet"], out, overwrite=True)["figures"] == ""
    assert not list(tmp_path.glob("*.png"))


def test_each_star_counts_once_with_its_best_good_spectrum():
    """Variables and stars of uncertain distance are in no H-R diagram."""
    fits = make_fits().iloc[:6].assign(star=[0, 0, 0, 1, 1, 2], VBFlag=[0, 0, 0, 0, 0, 1])
    fits = fits.assign(SNRr=[5, 9, 99, 20, 30, 40], good=[True, True, False, True, True, True])
    fits = fits.assign(Activity=[0, 0, 0, 0, 1, 0], Gmag=15.0, BPmag=16.0, RPmag=14.0, Plx=10.0)
    fits["e_Plx"] = [1.0, 1.0, 1.0, 2.5, 1.9, 1.0]
    figures = {name: draw() for name, draw in plan_figures(fits, {}).items()}
    assert set(figures) == {"sky", "kiel", "hr", "hr_active", "types"}
    shown = {
        name: figure.axes[0].collections[0].get_offsets()
        for name, figure in figures.items()
        if name != "types"
    }
    assert {name: len(points) for name, points in shown.items()} == {
        "sky": 3,
        "kiel": 3,
        "hr": 2,
        "hr_active": 1,
    }
    np.testing.assert_allclose(shown["kiel"][:, 0], fits["Teff"].iloc[[1, 4, 5]])
    np.testing.assert_allclose(shown["hr"], [[2.0, 10.0]] * 2)


def test_the_catalogue_tells_where_it_came_from(folder, tmp_path):
    make(folder, tmp_path / "CAT.fits", command=["jaxmdwarf", "catalogue", "one.parquet"])
    told = read_table(tmp_path / "CAT.fits").attrs["provenance"]
    assert told["command"] == "jaxmdwarf catalogue one.parquet"
    assert told["model_hash"] == "abc"
    assert told["model_trained_on"] == "a simulation"
    assert hash_files(folder / "two.fits") in told["inputs"]
    assert json.loads(told["configuration"])["cuts"]["logg_bounds"] == [4.0, 6.0]
    assert "Teff above 4300 K: 1" in told["cuts"]
    assert "Teff" in told["repeats"]


def test_a_catalogue_may_be_made_of_a_catalogue(folder, tmp_path):
    make(folder, tmp_path / "CAT.parquet")
    catalogue_files([tmp_path / "CAT.parquet"], tmp_path / "again.parquet")
    before, after = read_table(tmp_path / "CAT.parquet"), read_table(tmp_path / "again.parquet")
    pd.testing.assert_frame_equal(before, after, check_dtype=False)


def test_without_other_tables_what_they_tell_is_missing(folder, tmp_path):
    catalogue_files([folder / "one.parquet"], tmp_path / "CAT.fits")
    table = read_table(tmp_path / "CAT.fits")
    assert table["VBFlag"].isna().all()
    assert not {"Age", "Gmag", "VBTables"} & set(table.columns)
    notes = json.loads((tmp_path / "CAT_metrics.json").read_text())["notes"]
    assert any("VBFlag is unknown" in one for one in notes)


def test_bad_usage_is_told_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "CAT.fits"
    with pytest.raises(UsageError, match="no tables of fits"):
        catalogue_files([], out)
    with pytest.raises(UsageError, match="no label or velocity"):
        catalogue_files([folder / "gaia.fits"], out)
    with pytest.raises(UsageError, match="there is no table"):
        catalogue_files([folder / "none.fits"], out)
    with pytest.raises(UsageError, match="one of the tables of fits"):
        catalogue_files([folder / "two.fits"], folder / "two.fits", overwrite=True)
    assert not list(tmp_path.iterdir())
    none = CatalogueConfig(paper_cuts=True, cuts=CutConfig(max_teff=1000.0))
    with pytest.raises(WorkFailed, match="leave no row"):
        make(folder, out, config=none)
    assert not out.exists()
    make(folder, out)
    with pytest.raises(UsageError, match="exists") as caught:
        make(folder, out)
    assert "--overwrite" in caught.value.remedy
    make(folder, out, overwrite=True)


def test_a_full_disk_is_told_before_the_catalogue_is_made(folder, tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr(cataloguing, "catalogue_tables", lambda *a, **k: pytest.fail("at work"))
    with pytest.raises(UsageError, match=r"about \d\.\d MB are needed and 1\.0 kB are free"):
        make(folder, tmp_path / "CAT.fits")
    assert not list(tmp_path.iterdir())


def test_ages_are_predicted_by_the_spline_that_is_named(folder, tmp_path, monkeypatch):
    asked = []

    def predict(table, star, spline):
        asked.append(spline)
        return table.assign(Age=np.where(star == 0, 0.5, 3.0))

    monkeypatch.setattr("jaxmdwarf.catalogue.value_added.predict_ages", predict)
    out = tmp_path / "CAT.parquet"
    catalogue_files([folder / "two.fits"], out, age_spline="splines")
    made = read_table(out)
    young = (made["flags"].to_numpy() & int(QualityFlag.YOUNG)) != 0
    np.testing.assert_array_equal(young, made["Age"] == 0.5)
    assert asked == ["splines"]
    assert young.any()
    with pytest.raises(UsageError, match="given and to be predicted"):
        catalogue_files(
            [folder / "two.fits"],
            tmp_path / "B.parquet",
            ages=folder / "ages.csv",
            age_spline="splines",
        )


def test_a_catalogue_that_was_stopped_among_its_products_is_made_by_the_same_call(
    folder, tmp_path, monkeypatch
):
    out = tmp_path / "CAT.csv"

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxmdwarf.workflows.cataloguing.write_table", stop)
        with pytest.raises(KeyboardInterrupt):
            make(folder, out)
    assert (tmp_path / "CAT_metrics.json").exists()
    make(folder, out)
    assert len(read_table(out)) == len(make_fits())
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    # Those of a catalogue that was finished and moved away are still not replaced unasked.
    out.unlink()
    with pytest.raises(UsageError, match="exists"):
        make(folder, out)


def test_whole_numbers_stay_whole_and_are_masked_where_a_table_lacks_them():
    one = pd.DataFrame({"path": ["a", "b"], "flags": [4, 0], "Activity": [1, 0]})
    other = pd.DataFrame({"path": ["c"], "Activity": [1], "spectrum": [2]})
    frame, rejects = merge_fits([one, other])
    assert not rejects
    assert frame["flags"].tolist() == [4, 0, 0]
    assert frame["Activity"].tolist() == [1, 0, 1]
    assert frame["spectrum"].isna().tolist() == [True, True, False]
    assert {name: str(frame[name].dtype) for name in ("flags", "Activity", "spectrum")} == {
        "flags": "int32",
        "Activity": "int32",
        "spectrum": "Int64",
    }


def test_columns_of_others_keep_what_their_tables_say_of_them():
    first = pd.DataFrame({"Teff": [1.0], "mine": [2.0], "bare": [3.0]})
    first.attrs |= {"units": {"Teff": "mK", "mine": "pc"}, "descriptions": {"Teff": "strange"}}
    second = pd.DataFrame({"mine": [2.0], "also": [1.0]})
    second.attrs |= {"units": {"mine": "kpc"}, "descriptions": {"also": "something"}}
    found = describe_others([first, second, pd.DataFrame({"plain": [1.0]})])
    # Those that the package knows are described by it, those of which nothing is said by nobody.
    assert set(found) == {"mine", "also"}
    assert (found["mine"].unit, found["mine"].description) == ("pc", "")
    assert (found["also"].unit, found["also"].description) == ("", "something")
