"""From files to a catalogue: nothing lost, numbers right, and a killed run resumes."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jaxtyping import Array, Float

from jaxmdwarf.catalogue.columns import columns_from
from jaxmdwarf.catalogue.rows import list_columns
from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.models import save_model
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_spectrum
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.measure.spectrum import measure_spectrum
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import RelationPrior
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.continuum import pseudo_continuum
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import fitting
from jaxmdwarf.workflows.fitting import fit_files
from jaxmdwarf.workflows.packing import pack_files
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.sharding import merge_tables
from tests.io.spectra.conftest import write_desi

GRID = PixelGrid.linear(6000.0, 6900.0, 1.0)
MASKS = ((6546.0, 6586.0),)
OPTIONS = FitConfig(chunk_size=32, schedule=FitScheduleConfig(batch_size=32))
N_STAR = 90


def make_emulator():
    """An untrained network in front of narrow bands, which normalising leaves as they are."""
    rng = np.random.default_rng(6)
    wave = GRID.wave_aa
    centre = np.linspace(6020, 6880, 40) + rng.normal(0, 6, 40)
    width = rng.uniform(3.0, 7.0, 40)
    lines = np.exp(-0.5 * ((wave - centre[:, None]) / width[:, None]) ** 2)
    mixing = rng.normal(0, 0.06, (8, 40))
    basis = jnp.asarray(mixing @ lines, jnp.float32)
    good = jnp.ones((1, GRID.n_pix), bool)
    for _ in range(6):
        basis = basis - pseudo_continuum(basis, good, GRID)
    network = PayneNetwork(hidden=(24,), n_out=8, activation="tanh")
    params = init_payne(network, jax.random.key(1), 4)
    return PayneEmulator(
        params,
        basis,
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        LabelSpace.mdwarf(),
        GRID,
        Preprocessing(sigma_aa=30.0, masks_aa=MASKS, resolving_power=1800.0, simulated=True),
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(make_emulator(), tmp_path_factory.mktemp("model") / "emulator")


@pytest.fixture(scope="module")
def survey(tmp_path_factory, write_stars):
    """LAMOST files of stars with known labels and velocities, and three inputs that are not."""
    folder = tmp_path_factory.mktemp("survey")
    rng = np.random.default_rng(9)
    emulator = make_emulator()
    scaled = rng.uniform(-0.35, 0.35, (N_STAR, 4)).astype(np.float32)
    rv_kms = rng.uniform(-250, 250, N_STAR)
    rest = np.asarray(emulator.predict_scaled_batch(jnp.asarray(scaled)))
    snr = rng.uniform(15, 40, N_STAR)
    write_stars(
        folder,
        GRID,
        rest,
        rv_kms,
        snr,
        rng,
        log10_start=3.75,
        n_pix=1150,
        bad=slice(300, 304),
        snr_r=np.where(np.arange(N_STAR) == 7, 4.0, 50.0),
    )
    (folder / "star-010-empty.fits").write_bytes(b"")
    (folder / "star-020-text.fits").write_text("no spectrum")
    shutil.copy(folder / "star-005.fits.gz", folder / "star-080-again.fits.gz")
    labels = LabelSpace.mdwarf().unscale(scaled.astype(np.float64))
    return folder, labels, rv_kms


@pytest.fixture(scope="module")
def catalogue(survey, model_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "catalogue.fits"
    summary = fit_files([survey[0]], model_dir, out, options=OPTIONS, processes=1)
    return read_table(out), summary, out


def test_every_input_ends_in_the_catalogue_or_among_the_rejects(catalogue):
    table, summary, out = catalogue
    rejects = read_rejects(out.with_name("catalogue_rejects.csv"))
    assert summary["inputs"] == N_STAR + 3 == len(table) + len(rejects)
    assert {reject.path.rsplit("/", 1)[1] for reject in rejects} == {
        "star-010-empty.fits",
        "star-020-text.fits",
        "star-080-again.fits.gz",
    }
    assert list(table["path"]) == sorted(table["path"])
    assert not out.with_name("catalogue.fits.partial").exists()


def test_a_pack_gives_the_catalogue_of_its_files(catalogue, survey, model_dir, tmp_path):
    """Stars move to other chunks, since those of the files hold three that are none."""
    pytest.importorskip("zarr")
    pack, out = tmp_path / "survey.zarr", tmp_path / "pack.fits"
    assert pack_files([survey[0]], pack, processes=1)["packed"] == N_STAR
    summary = fit_files([pack], model_dir, out, options=OPTIONS, processes=1, profile=True)
    stages = {"waiting for readers", "first velocities", "fits", "fits again", "outlier pixels"}
    assert stages < set(summary["profile"])
    assert 0 < sum(summary["profile"].values()) < 2.5 * summary["wall_s"] + 0.1
    assert (summary["inputs"], summary["catalogue"], summary["rejected"]) == (N_STAR, N_STAR, 0)
    table = read_table(out)
    pd.testing.assert_frame_equal(table, catalogue[0], check_exact=True)
    assert table.attrs["provenance"]["packs"].startswith(str(pack))


def test_parts_give_the_catalogue_of_one_run(catalogue, survey, model_dir, tmp_path):
    """The copy of a star is in another part than the star."""
    parts = [tmp_path / f"{number}.fits" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        more = {"options": OPTIONS, "processes": 1, "shard": f"{number}/2"}
        fit_files([survey[0]], model_dir, part, **more)
    summary = merge_tables(parts, tmp_path / "T.fits")
    assert {summary[name] for name in ("rows", "inputs")} == {N_STAR, N_STAR + 3}
    table = read_table(tmp_path / "T.fits")
    pd.testing.assert_frame_equal(table, catalogue[0], check_exact=True)
    told, expected = table.attrs["provenance"], catalogue[0].attrs["provenance"]
    for name in ("model_hash", "model_trained_on", "label_bounds", "packages"):
        assert told[name] == expected[name]
    assert table.attrs["flags"] == catalogue[0].attrs["flags"]


def test_columns_of_a_gaia_table_are_joined(survey, model_dir, tmp_path):
    paths = sorted(survey[0].glob("star-00[0-3].fits.gz"))
    gaia = pd.DataFrame({"obsid": [1002, 1000], "parallax": [25.0, 31.0], "ruwe": [1.0, 1.3]})
    gaia.to_csv(tmp_path / "gaia.csv", index=False)
    out = tmp_path / "T.fits"
    arguments = {"options": OPTIONS, "processes": 1}
    summary = fit_files(paths, model_dir, out, gaia=tmp_path / "gaia.csv", **arguments)
    assert (summary["catalogue"], summary["in_gaia"]) == (4, 2)
    table = read_table(out).set_index("obsid")
    assert table.loc[1000, "Plx"] == 31.0
    assert table["RUWE"].isna().sum() == 2
    assert table.attrs["units"]["Plx"] == "mas"
    gaia[["obsid"]].to_csv(tmp_path / "empty.csv", index=False)
    with pytest.raises(UsageError, match="none of Gmag"):
        fit_files(paths, model_dir, tmp_path / "U.fits", gaia=tmp_path / "empty.csv", **arguments)
    assert not list(tmp_path.glob("U*"))


def test_what_needs_no_model_is_measured_at_the_fitted_velocity(catalogue, survey):
    """The files reach from 5623 to 7325 Angstrom: Halpha and CaH are there, at the fitted rest."""
    table, _, _ = catalogue
    assert table["EW_Halpha"].notna().all()
    assert (table["Activity"] == (table["EW_Halpha"] > 0.75)).all()
    row = int(np.argmax(np.abs(survey[2])))
    raw = read_spectrum(survey[0] / f"star-{row:03d}.fits.gz")
    fitted = table[table["obsid"] == 1000 + row].iloc[0]
    expected = measure_spectrum(raw.wave_aa, raw.flux, raw.ivar, rv_kms=fitted["RV"])
    for name, column in columns_from("measured").items():
        value = float(getattr(expected, name))
        assert float(fitted[column]) == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_labels_and_velocities_of_the_files_are_right(catalogue, survey):
    table, summary, _ = catalogue
    _, labels, rv_kms = survey
    row = table["obsid"].astype(int).to_numpy() - 1000
    # These stars have lines where the model has them, and no band of an M dwarf.
    aside = int(QualityFlag.LOW_SNR | QualityFlag.NOT_M_DWARF)
    good = (table["flags"] & ~aside).to_numpy() == 0
    assert good.mean() > 0.85
    assert summary["converged_fraction"] > 0.98
    velocity_pull = (table["RV"].to_numpy() - rv_kms[row]) / table["e_RV"].to_numpy()
    assert np.median(np.abs(velocity_pull[good])) < 1.0
    for index, name in enumerate(["Teff", "Logg", "M_H", "alpha_M"]):
        pull = (table[name].to_numpy() - labels[row, index]) / table[f"e_{name}"].to_numpy()
        assert np.median(np.abs(pull[good])) < 1.1
    assert np.median(table["chi2_red"]) == pytest.approx(1.0, abs=0.15)


def test_the_catalogue_says_what_it_is(catalogue, model_dir):
    table, summary, _ = catalogue
    provenance = table.attrs["provenance"]
    assert provenance["model_trained_on"] == summary["model_trained_on"] == "a simulation"
    assert len(provenance["model_hash"]) == 64
    assert table.attrs["units"]["Teff"] == "K"
    assert list(table.columns) == list_columns("fit")
    assert list(table.columns[:4]) == ["ID", "obsid", "RA", "Dec"]
    low = table["obsid"].astype(int) == 1007
    assert (table["flags"][low] & int(QualityFlag.LOW_SNR)).all()
    assert not (table["flags"][~low] & int(QualityFlag.LOW_SNR)).any()


def test_a_killed_run_resumes_to_the_same_catalogue(
    catalogue, survey, model_dir, tmp_path, monkeypatch
):
    whole, _, _ = catalogue
    out = tmp_path / "again.parquet"

    class Killed(BaseException):
        pass

    whole_fit, calls = Fitter.fit, []

    def dying(self, raws, **options):
        calls.append(len(raws))
        if len(calls) == 3:
            raise Killed
        return whole_fit(self, raws, **options)

    monkeypatch.setattr(Fitter, "fit", dying)
    with pytest.raises(Killed):
        fit_files([survey[0]], model_dir, out, options=OPTIONS, processes=1)
    partial = tmp_path / "again.parquet.partial"
    assert sorted(path.name for path in partial.glob("chunk-*.json")) == [
        "chunk-000000.json",
        "chunk-000001.json",
    ]
    assert not out.exists()
    summary = fit_files([survey[0]], model_dir, out, options=OPTIONS, processes=1)
    # The spectrum that was given twice is still known after the interruption.
    assert summary["fitted_now"] == N_STAR - sum(calls[:2])
    resumed = read_table(out)
    for name in whole.columns:
        np.testing.assert_array_equal(resumed[name].to_numpy(), whole[name].to_numpy())


def test_without_a_model_the_one_of_the_package_is_used_and_said(
    survey, model_dir, catalogue, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "DEFAULT_MODEL", model_dir)
    monkeypatch.setattr(fitting, "read_default_notice", lambda: "ours, on a scale")
    said = []

    class Listening(Silent):
        def say(self, text):
            said.append(text)

    out = tmp_path / "default.fits"
    fit_files([survey[0]], None, out, options=OPTIONS, processes=1, progress=Listening())
    assert said[0] == "ours, on a scale"
    table, (given, _, _) = read_table(out), catalogue
    np.testing.assert_array_equal(table["Teff"], given["Teff"])
    told, before = table.attrs["provenance"], given.attrs["provenance"]
    assert told["model"] == fitting.DEFAULT_NAME
    assert told["model_notice"] == "ours, on a scale"
    assert told["model_hash"] == before["model_hash"]
    assert "model_notice" not in before


@pytest.mark.slow
def test_a_run_killed_without_warning_resumes_to_the_same_catalogue(survey, model_dir, tmp_path):
    options = replace(OPTIONS, chunk_size=4, schedule=FitScheduleConfig())
    whole = tmp_path / "whole.parquet"
    fit_files([survey[0]], model_dir, whole, options=options, processes=1)
    out = tmp_path / "killed.parquet"
    partial = tmp_path / "killed.parquet.partial"
    words = ["fit", str(survey[0]), "--model", str(model_dir), "--out", str(out)]
    words += ["--chunk-size", "4", "--processes", "1"]
    program = f"from jaxmdwarf.cli import main; main({words!r})"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = subprocess.Popen([sys.executable, "-c", program], **quiet)
    try:
        until = time.monotonic() + 120
        while not (partial / "chunk-000003.json").exists():
            assert running.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until
            time.sleep(0.001)
    finally:
        running.kill()
        running.wait()
    done = len(list(partial.glob("chunk-*.json")))
    assert 4 <= done < 23
    assert not out.exists()
    summary = fit_files([survey[0]], model_dir, out, options=options, processes=1)
    assert summary["fitted_now"] <= N_STAR - 4 * 3
    first, second = read_table(whole), read_table(out)
    assert len(first) == N_STAR
    for name in first.columns:
        np.testing.assert_array_equal(second[name].to_numpy(), first[name].to_numpy())
    assert not partial.exists()


def test_a_batch_larger_than_memory_is_refused(survey, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmdwarf.inference.memory.find_memory", lambda: 2**20)
    with pytest.raises(UsageError, match="give --batch-size"):
        fit_files([survey[0]], model_dir, tmp_path / "T.csv", options=OPTIONS, processes=1)


def test_what_is_in_the_way_is_told_before_any_work(catalogue, survey, model_dir, tmp_path):
    _, _, out = catalogue
    before = out.read_bytes()
    path = survey[0] / "star-000.fits.gz"
    with pytest.raises(UsageError, match="exists") as caught:
        fit_files([path], model_dir, out, options=OPTIONS, processes=1)
    assert "--overwrite" in caught.value.remedy
    assert out.read_bytes() == before
    other = tmp_path / "U.csv.partial"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="move it away"):
        fit_files([path], model_dir, tmp_path / "U.csv", options=OPTIONS, processes=1)
    assert (other / "precious.txt").exists()
    with pytest.raises(UsageError, match="no model directory"):
        fit_files([path], tmp_path / "none", tmp_path / "T.csv", options=OPTIONS, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["U.csv.partial"]


def test_header_velocities_can_be_taken_instead(survey, model_dir, tmp_path):
    folder, _, rv_kms = survey
    paths = sorted(folder.glob("star-00[0-3].fits.gz"))
    options = replace(OPTIONS, velocity="header")
    fit_files(paths, model_dir, tmp_path / "T.fits", options=options, processes=1)
    table = read_table(tmp_path / "T.fits")
    np.testing.assert_allclose(table["RV"], rv_kms[:4], atol=0.05)
    assert table["e_RV"].isna().all()
    assert (table["chi2_red"] < 1.5).all()


class BorrowedPattern(ForwardModel):
    """An emulator behind a stand-in for a transfer: each star wears a pattern of its own depth."""

    base: PayneEmulator
    pattern: Float[Array, "n_pix"]
    model_error: Float[Array, "n_pix"]
    label_space: LabelSpace = eqx.field(static=True)
    grid: PixelGrid = eqx.field(static=True)
    preprocessing: Preprocessing = eqx.field(static=True, default=Preprocessing())
    label_priors: tuple = eqx.field(static=True, default=())

    def priors(self):
        return self.label_priors

    def predict_scaled(self, scaled, context=None):
        depth = 0.0 if context is None else context
        return self.base.predict_scaled(scaled) + depth * self.pattern

    def predict_scaled_batch(self, scaled, context=None):
        flux = self.base.predict_scaled_batch(scaled)
        return flux if context is None else flux + context[:, None] * self.pattern

    def read_context(self, batch):
        """Depth of the pattern; not a number for rows of padding."""
        weight = jnp.where(batch.ivar > 0, self.pattern, 0)
        return jnp.sum(weight * (batch.flux - 1), axis=-1) / jnp.sum(weight**2, axis=-1)

    def to_synthetic(self, batch):
        flux = batch.flux - self.read_context(batch)[:, None] * self.pattern
        return self.base, SpectrumBatch(flux, batch.ivar, batch.information, batch.grid)


def make_transfer(**changes):
    base = make_emulator()
    wave = GRID.wave_aa
    pattern = jnp.asarray(1e-3 * np.cos(wave), jnp.float32)
    arguments = {
        "base": base,
        "pattern": pattern,
        "model_error": base.model_error,
        "label_space": base.label_space,
        "grid": base.grid,
        "preprocessing": base.preprocessing,
    }
    return BorrowedPattern(**{**arguments, **changes})


@pytest.fixture
def fit_with(survey, model_dir, monkeypatch):
    """Fit forty stars in chunks of 32, so that the last one is padded, with any model."""
    whole_fit = Fitter.fit

    def run(model, out, **options):
        fitted = []

        def fit(self, raws, **more):
            fitted.append(whole_fit(self, raws, **more))
            return fitted[-1]

        # Stand-ins for a transfer are of no kind that a directory could hold.
        monkeypatch.setattr("jaxmdwarf.workflows.fitting.load_model", lambda path: model)
        monkeypatch.setattr(Fitter, "fit", fit)
        paths = sorted(survey[0].glob("star-0[0-3]?.fits.gz"))
        fit_files(paths, model_dir, out, options=replace(OPTIONS, **options), processes=1)
        return read_table(out), np.concatenate([part.result.n_iter for part in fitted])

    return run


def test_a_transferred_star_is_fitted_in_the_synthetic_domain_first(fit_with, tmp_path):
    model, tables = make_transfer(), {}
    for domain in ("synthetic", "observed", "both"):
        out = tmp_path / f"{domain}.csv"
        tables[domain] = fit_with(model, out, domain=domain)
    observed, steps = tables["observed"]
    both, later_steps = tables["both"]
    assert len(both) == 40
    for name in ("Teff", "Logg", "M_H", "alpha_M"):
        np.testing.assert_allclose(
            both[name], observed[name], atol=0.05 * float(observed[f"e_{name}"].max())
        )
        moved = (tables["synthetic"][0][name] - both[name]) / both[f"e_{name}"]
        assert np.median(np.abs(moved)) < 0.3
    # What the first domain found leaves little to do in the second.
    assert np.median(later_steps) < np.median(steps)


def test_models_without_a_synthetic_side_say_so(survey, model_dir, tmp_path):
    path = survey[0] / "star-000.fits.gz"
    options = replace(OPTIONS, domain="synthetic")
    with pytest.raises(UsageError, match="transfers no spectra"):
        fit_files([path], model_dir, tmp_path / "T.csv", options=options, processes=1)


def test_the_priors_of_a_model_are_used_unless_switched_off(fit_with, tmp_path):
    relation = RelationPrior(
        "logg", ("teff",), ((0,), (1,)), (5.0, -0.3), 0.01, centre=(3400.0,), scale=(1000.0,)
    )
    model = make_transfer(label_priors=(relation,))
    held, _ = fit_with(model, tmp_path / "T.csv")
    free, _ = fit_with(model, tmp_path / "U.csv", priors=("none",))
    expected = 5.0 - 0.3 * (held["Teff"] - 3400.0) / 1000.0
    assert np.abs(held["Logg"] - expected).max() < 0.05
    assert np.abs(free["Logg"] - expected).max() > 0.3
    assert (held["e_Logg"] < free["e_Logg"]).all()
    # A relation that cannot hold here is reported, and stops nobody.
    other = make_transfer(label_priors=(replace(relation, name="age", key="gyro"), relation))
    (warning,) = Fitter(other).warnings
    assert "'gyro' on age was left out: no label age" in warning


def test_faint_spectra_can_be_left_out_and_nothing_usable_is_an_error(survey, model_dir, tmp_path):
    folder = survey[0]
    options = replace(OPTIONS, min_snr=10.0)
    paths = [folder / "star-006.fits.gz", folder / "star-007.fits.gz"]
    summary = fit_files(paths, model_dir, tmp_path / "T.fits", options=options, processes=1)
    assert (summary["catalogue"], summary["rejected"]) == (1, 1)
    assert "below 10" in read_rejects(tmp_path / "T_rejects.csv")[0].reason
    with pytest.raises(WorkFailed, match="none of 1 inputs"):
        fit_files(paths[1:], model_dir, tmp_path / "U.fits", options=options, processes=1)
    assert len(read_rejects(tmp_path / "U_rejects.csv")) == 1


def test_a_file_may_hold_more_spectra_than_a_batch(tmp_path, model_dir):
    folder = tmp_path / "night"
    folder.mkdir()
    arms = {"R": (5760.0, 7000.0)}
    write_desi(folder / "coadd.fits", 40, arms=arms, objtype=["TGT"] * 39 + ["SKY"])
    (folder / "text.fits").write_text("no spectrum")
    out = tmp_path / "T.csv"
    summary = fit_files([folder], model_dir, out, options=OPTIONS, processes=1)
    assert (summary["inputs"], summary["catalogue"], summary["rejected"]) == (41, 39, 2)
    rows = read_table(out)
    assert rows["spectrum"].tolist() == list(range(39))
    assert set(rows["path"]) == {str(folder / "coadd.fits")}
    rejects = read_rejects(tmp_path / "T_rejects.csv")
    assert [reject.spectrum for reject in rejects] == [39, None]
    # A spectrum's fit does not hang on the others in its file.
    alone = tmp_path / "alone.csv"
    write_desi(tmp_path / "one.fits", 1, arms=arms)
    fit_files([tmp_path / "one.fits"], model_dir, alone, options=OPTIONS, processes=1)
    first, same = rows.iloc[0], read_table(alone).iloc[0]
    assert first["Teff"] == pytest.approx(same["Teff"], abs=1.0)
    assert first["RV"] == pytest.approx(same["RV"], abs=0.1)
