"""Peers of the comparison find labels that are known, on spectra made for them."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.wavelengths import PixelGrid

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="not run from the repository"
)

N_PIX = 120
WIDTHS = {"teff": 1500.0, "logg": 1.0, "mh": 2.0, "alpha_m": 0.9}
ERRORS = {"teff": 10.0, "logg": 0.02, "mh": 0.02}


@pytest.fixture(scope="module", autouse=True)
def _root_on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        yield


@pytest.fixture(scope="module")
def model():
    """Flux linear in four labels, each with features of its own."""
    rng = np.random.default_rng(4)
    names = tuple(WIDTHS)
    space = LabelSpace(
        names, ("K", "dex", "dex", "dex"), (2800.0, 4.4, -1.5, -0.2), (4300.0, 5.4, 0.5, 0.7)
    )
    grid = PixelGrid.linear(6000.0, 6000.0 + 4.0 * (N_PIX - 1), 4.0)
    # Lines of 12 Angstrom, which shifts of some km/s move by a part of a pixel.
    slopes = np.array([np.convolve(rng.normal(size=N_PIX), np.ones(3) / 3, "same") for _ in names])
    upper = (np.arange(16)[:, None] >> np.arange(4)) % 2
    corners = (1.0 + 0.2 * (upper - 0.5) @ slopes).astype(np.float32)
    return TableModel(jnp.asarray(corners), jnp.zeros(N_PIX), space, grid)


def make_stars(model, labels, rng, noise=0.005):
    from benchmarks.peers.common import Pixels, Stars

    scaled = np.asarray(model.label_space.scale(labels), np.float32)
    corners = np.asarray(model.corners)
    upper = ((np.arange(16)[:, None] >> np.arange(4)) % 2).astype(bool)
    weights = np.where(upper, 0.5 + scaled[:, None], 0.5 - scaled[:, None]).prod(axis=2)
    flux = weights @ corners + noise * rng.normal(size=(len(labels), N_PIX))
    ivar = np.full(flux.shape, noise**-2)
    # What must not count: cosmic rays in pixels of no weight, and a pixel that nobody has.
    bad = rng.random(flux.shape) < 0.03
    flux[bad], ivar[bad] = 30.0, 0.0
    ivar[:, 7] = 0.0
    pixels = Pixels(model.grid.wave_aa, flux, ivar)
    return Stars(pixels, pixels)


def sample_labels(n, rng):
    """Stars on a sequence: log g and [alpha/M] follow from Teff and [M/H]."""
    teff, mh = rng.uniform(3000, 4100, n), rng.uniform(-0.6, 0.3, n)
    return np.stack([teff, 4.9 - (teff - 3500) / 2500, mh, 0.05 - 0.3 * mh], axis=1)


@pytest.fixture(scope="module")
def sample(model):
    """Common stars with labels of the literature, and others with the truth."""
    from benchmarks.peers.common import KnownStars, Theory, Training

    rng = np.random.default_rng(5)
    labels, truth = sample_labels(150, rng), sample_labels(12, rng)
    literature = {
        name: labels[:, k] + ERRORS[name] * rng.normal(size=150) for k, name in enumerate(ERRORS)
    }
    errors = {name: np.full(150, error) for name, error in ERRORS.items()}
    known = KnownStars(make_stars(model, labels, rng), literature, errors)
    theory = Theory(model.label_space.names, labels, model.grid, np.ones((150, N_PIX)))
    return Training(known, theory, model), make_stars(model, truth, rng), truth


def measure_rms(found, truth, name):
    return np.sqrt(np.mean((found.labels[name] - truth[:, list(WIDTHS).index(name)]) ** 2))


def test_the_payne_finds_the_labels_of_its_own_model(sample):
    from benchmarks.peers.payne_scipy import PAYNE

    training, stars, truth = sample
    found = PAYNE.train(training, None)(stars)
    for name in WIDTHS:
        rms, error = measure_rms(found, truth, name), np.median(found.errors[name])
        assert 0.4 * error < rms < 2 * error
        assert rms < 0.05 * WIDTHS[name]


def test_the_payne_finds_a_velocity_beside_the_labels(sample):
    from benchmarks.peers.common import Stars
    from benchmarks.peers.payne_scipy import PAYNE

    training, stars, truth = sample
    flux = np.array(
        [
            np.interp(stars.rest.wave_aa, stars.rest.wave_aa * (1 + 150 / 299792.458), one)
            for one in make_stars(training.emulator, truth, np.random.default_rng(6)).rest.flux
        ]
    )
    usable = np.abs(flux - 1) < 3
    moved = stars.rest._replace(flux=flux, ivar=np.where(usable, 4e4, 0.0))
    found = PAYNE.train(training, None)(Stars(moved, moved))
    assert measure_rms(found, truth, "teff") < 0.04 * WIDTHS["teff"]


def test_templates_are_combined_as_the_star_is(model):
    from benchmarks.peers.templates import match_templates

    rng = np.random.default_rng(7)
    labels = np.array([[t, m] for t in (3000.0, 3400.0, 3800.0) for m in (-0.5, 0.5)])
    templates = 1 + 0.1 * rng.normal(size=(6, N_PIX))
    flux = (0.25 * templates[1] + 0.75 * templates[2])[None]
    ivar = np.ones((1, N_PIX))
    flux[0, 3], ivar[0, 3] = 1e3, 0.0
    found = match_templates(flux, ivar, templates, labels)
    np.testing.assert_allclose(found, [0.25 * labels[1] + 0.75 * labels[2]], rtol=1e-6)
    # A star without a good pixel has no labels.
    assert np.isnan(match_templates(flux, 0 * ivar, templates, labels)).all()


def test_templates_of_theory_lie_as_near_as_the_grid_is_fine(sample):
    from benchmarks.peers.templates import THEORY_TEMPLATES

    training, stars, truth = sample
    coarse, fine = (THEORY_TEMPLATES.train(training, step)(stars) for step in (100.0, 50.0))
    assert set(fine.labels) == set(WIDTHS)
    assert measure_rms(fine, truth, "teff") < 60
    assert measure_rms(coarse, truth, "teff") < 100
    assert not fine.errors


@pytest.mark.parametrize(("name", "most"), [("CANNON", (25.0, 0.05)), ("SLAM", (40.0, 0.08))])
def test_data_driven_peers_learn_labels_from_the_literature(sample, name, most):
    from benchmarks.peers import quadratic, support_vectors

    peer = getattr(quadratic if name == "CANNON" else support_vectors, name)
    training, stars, truth = sample
    found = peer.train(training, ("teff", "mh"))(stars)
    assert measure_rms(found, truth, "teff") < most[0]
    assert measure_rms(found, truth, "mh") < most[1]
    assert np.isfinite(found.errors["teff"]).all()
    # Templates of the same stars, of which there are few, do worse.
    assert "logg" not in found.labels


def test_the_cannon_knows_the_scatter_of_a_pixel():
    from benchmarks.peers.quadratic import expand_quadratic, expand_slopes, fit_pixels

    rng = np.random.default_rng(8)
    scaled = rng.normal(size=(400, 2))
    truth = rng.normal(size=(3, 6))
    scatter = np.array([0.0, 0.02, 0.05])
    flux = expand_quadratic(scaled) @ truth.T
    flux += np.hypot(0.01, scatter) * rng.normal(size=flux.shape)
    ivar = np.full(flux.shape, 1e4)
    found, spread = fit_pixels(scaled, flux, ivar)
    np.testing.assert_allclose(found, truth, atol=0.02)
    np.testing.assert_allclose(spread, scatter, atol=0.011)
    step = np.array([1e-6, 0.0])
    difference = (expand_quadratic(scaled[:1] + step) - expand_quadratic(scaled[:1] - step)) / 2e-6
    np.testing.assert_allclose(expand_slopes(scaled[0])[:, 0], difference[0], atol=1e-8)


def test_regressions_of_all_pixels_are_those_of_scikit_learn():
    from sklearn.svm import SVR

    from benchmarks.peers.support_vectors import learn_pixels

    rng = np.random.default_rng(9)
    scaled = rng.normal(size=(60, 2))
    flux = 1 + 0.1 * np.tanh(scaled @ rng.normal(size=(2, 3))) + 0.005 * rng.normal(size=(60, 3))
    ivar = np.ones((60, 3))
    ivar[:45, 2] = 0.0
    machines = learn_pixels(scaled, flux, ivar)
    assert machines.learned.tolist() == [True, True, False]
    gamma = next(one for one, (pixels, _) in machines.duals.items() if 0 in pixels)
    at = rng.normal(size=(5, 2))
    values = (flux[:, 0] - flux[:, 0].mean()) / flux[:, 0].std()
    predicted = [
        flux[:, 0].mean()
        + flux[:, 0].std() * SVR(gamma=gamma, C=cost, epsilon=width).fit(scaled, values).predict(at)
        for cost in (0.3, 3.0)
        for width in (0.1, 0.5)
    ]
    assert min(np.abs(machines.predict(at)[:, 0] - one).max() for one in predicted) < 1e-4


def test_the_full_spectrum_is_fitted_under_a_polynomial():
    from benchmarks.peers.common import Theory
    from benchmarks.peers.full_spectrum import Interpolator, fit_labels

    rng = np.random.default_rng(10)
    grid = PixelGrid.logarithmic(6000.0, 6300.0, 2.3e-4)
    teff, logg, mh = (rng.uniform(*span, 150) for span in ((3000, 4000), (4.5, 5.5), (-1, 0.5)))
    alpha = np.clip(-0.4 * mh, 0.0, 0.4) + rng.uniform(-0.25, 0.25, 150)
    labels = np.stack([teff, logg, mh, alpha], axis=1)
    patterns = np.cumsum(rng.normal(size=(4, grid.n_pix)), axis=1)
    patterns -= patterns.mean(axis=1, keepdims=True)

    def flux_at(rows):
        return np.exp(0.02 * ((rows - [3500, 5.0, -0.25, 0.1]) / [1000, 1.0, 1.5, 0.9]) @ patterns)

    theory = Theory(("teff", "logg", "mh", "alpha_m"), labels, grid, flux_at(labels))
    interpolator = Interpolator(theory, grid.wave_aa)
    np.testing.assert_allclose(
        interpolator.predict(interpolator.scaled[:5]), interpolator.flux[:5], rtol=2e-3
    )
    truth = np.array([3300.0, 5.1, -0.4, 0.16])
    x = np.linspace(-1, 1, grid.n_pix)
    seen = flux_at(truth[None])[0] * (3.0 + 0.8 * x - 0.3 * x**3)
    seen += 0.003 * rng.normal(size=grid.n_pix)
    ivar = np.full(grid.n_pix, 0.003**-2)
    seen[10:14], ivar[10:14] = 50.0, 0.0
    found, errors = fit_labels(
        interpolator,
        grid.wave_aa,
        seen,
        ivar,
        start=np.zeros(3),
        velocity=(0.0, 0.0),
        degree=4,
    )
    away = found - interpolator.scale(truth)[:3]
    assert (np.abs(away) < 4 * errors).all()
    assert (errors < 0.1).all()


def test_ppxf_finds_the_velocity_for_it():
    pytest.importorskip("ppxf", reason="pPXF comes with the extra peers")
    from benchmarks.peers.full_spectrum import fit_velocity

    rng = np.random.default_rng(11)
    step = 2.3e-4
    wave = 6000.0 * np.exp(step * np.arange(400))
    long = 6000.0 * np.exp(step * np.arange(-40, 440))
    templates = 1 - 0.3 * np.array(
        [
            np.sum([np.exp(-0.5 * ((long - at) / 3) ** 2) for at in rng.uniform(6000, 6560, 25)], 0)
            for _ in range(2)
        ]
    )
    shifted = np.interp(wave, long * np.exp(85.0 / 299792.458), templates[1])
    x = np.linspace(-1, 1, wave.size)
    flux = shifted * (1 + 0.2 * x) + 0.002 * rng.normal(size=wave.size)
    (velocity, _), shares = fit_velocity(templates, long, wave, flux, np.full(400, 0.002**-2))
    assert velocity == pytest.approx(85.0, abs=8.0)
    assert shares[1] > 0.9


def test_options_are_chosen_on_stars_that_are_set_aside(sample):
    from benchmarks.peers.common import Estimate, Peer, tune

    training, _, _ = sample
    asked = []

    def train(given, off):
        asked.append(given.known.stars.n_star)

        def label(stars):
            asked.append(stars.n_star)
            # Only stars that were not given to `train` may be asked for: flux tells them apart.
            told = given.known.stars.rest.flux[:, 0]
            assert not np.isin(stars.rest.flux[:, 0][stars.rest.ivar[:, 0] > 0], told).any()
            teff = np.full(stars.n_star, 3500.0 + off)
            return Estimate({"teff": teff, "mh": np.full(stars.n_star, -0.15)})

        return label

    tuned = tune(Peer("", "", "", (900.0, 0.0, -900.0), train), training)
    assert tuned.option == 0.0
    assert len(tuned.scores) == 3
    assert asked[:2] == [112, 38]
    assert tune(Peer("", "", "", ("alone",), train), training).option == "alone"


def make_estimates():
    from benchmarks.peers.common import Estimate

    rng = np.random.default_rng(2)
    n = 1500
    truth = {
        "teff": rng.uniform(3000, 4000, n),
        "logg": np.full(n, 5.0),
        "mh": rng.uniform(-1.2, 0.4, n),
        "alpha_m": np.zeros(n),
    }
    snr = np.exp(rng.uniform(np.log(5), np.log(80), n))
    teff = truth["teff"] + 20.0 + 50.0 * rng.normal(size=n)
    mh = np.where(truth["mh"] < -0.7, truth["mh"] + 0.3, truth["mh"]) + 0.1 * rng.normal(size=n)
    ours = Estimate({"teff": teff, "mh": mh}, {"teff": np.full(n, 25.0)})
    other = truth["teff"] + 30.0 * rng.normal(size=n)
    other[snr < 10] += 200.0 * rng.normal(size=(snr < 10).sum())
    other[5] = np.nan
    return {"ours": ours, "theirs": Estimate({"teff": other})}, truth, snr


def test_methods_are_judged_on_one_set_of_stars():
    from benchmarks.peers.judge import judge_all, list_behind

    estimates, truth, snr = make_estimates()
    judged = judge_all(estimates, truth, snr)
    ours, theirs = judged["ours"]["teff"], judged["theirs"]["teff"]
    assert [row["stars"] for row in ours] == ["5-10", "10-20", "20-50", "> 50", "all", "metal-poor"]
    assert [row["n"] for row in ours] == [row["n"] for row in theirs]
    assert sum(row["n"] for row in ours[:4]) == ours[4]["n"] == 1499
    assert "logg" not in judged["ours"]
    overall = ours[4]
    assert overall["bias"] == pytest.approx(20.0, abs=5.0)
    assert overall["scatter"] == pytest.approx(50.0, abs=4.0)
    assert overall["std"] == pytest.approx(50.0, abs=4.0)
    assert overall["pull_width"] == pytest.approx(2.0, abs=0.1)
    assert overall["pull_mean"] == pytest.approx(0.8, abs=0.1)
    assert "pull_width" not in theirs[4]
    assert judged["ours"]["mh"][5]["bias"] == pytest.approx(0.3, abs=0.04)
    behind = {(one["stars"], one["what"]) for one in list_behind(judged, "ours", ["theirs"])}
    assert ("20-50", "scatter") in behind
    assert ("20-50", "bias") in behind
    assert ("5-10", "scatter") not in behind


def test_answers_are_kept_and_the_page_has_their_numbers(tmp_path):
    from benchmarks.peers.methods import PEERS
    from benchmarks.peers.page import BEGIN, END, put_tables, render_tables
    from benchmarks.peers.run import Answer, summarise
    from benchmarks.peers.survey import CaseConfig

    estimates, truth, snr = make_estimates()
    answers = {}
    for name, key in (("cannon", "theirs"), ("ours", "ours")):
        said = Answer(estimates[key], 2.0, "an option" if name == "cannon" else "")
        said.write(tmp_path / name)
        read = Answer.read(tmp_path / name)
        np.testing.assert_array_equal(read.estimate.labels["teff"], estimates[key].labels["teff"])
        answers[name] = [read]
    result = summarise(answers, truth, [snr], [21], CaseConfig())
    assert result["methods"][0]["missing"] == pytest.approx(1 / 1500, abs=1e-4)
    assert result["methods"][0]["stars_per_cpu_s"] == 750.0
    assert set(result["by_seed"]["21"]) == {"cannon", "ours"}
    page = put_tables(f"before\n{BEGIN}\nold\n{END}\nafter\n", render_tables(result))
    assert page.startswith("before\n")
    assert page.endswith(f"{END}\nafter\n")
    assert "old" not in page
    ours = next(one for one in result["methods"] if one["name"] == "ours")
    bias = ours["labels"]["teff"][4]["bias"]
    assert f"{bias:+.0f}" in page
    assert PEERS["cannon"].title in page
    assert "an option" in page
    assert f"Ahead of *{ours['title']}* by more than" in page


def test_a_label_that_was_left_out_for_one_survey_is_not_judged():
    from benchmarks.peers.common import Estimate
    from benchmarks.peers.run import _join

    both = Estimate({"teff": np.ones(2), "logg": np.ones(2)}, {"teff": np.ones(2)})
    joined = _join([both, Estimate({"teff": np.zeros(3)}, {"teff": np.zeros(3)})])
    assert joined.labels["teff"].tolist() == [1, 1, 0, 0, 0]
    assert set(joined.labels) == set(joined.errors) == {"teff"}


def test_known_and_judged_stars_share_no_star():
    from benchmarks.peers.survey import choose_judged, choose_known

    rng = np.random.default_rng(13)
    star = np.sort(rng.integers(0, 60, 150))
    truth = pd.DataFrame(
        {
            "source_id": star + 10**6,
            "snr_r": rng.uniform(3, 60, 150),
            "kind": np.where(star % 7 == 0, "giant", "mdwarf"),
            "is_binary": (star % 5 == 0).astype(int),
            "failed": (rng.random(150) < 0.1).astype(int),
        }
    )
    truth.loc[truth["failed"] == 1, "snr_r"] = np.nan
    seen = np.isin(star, star[:80])
    reference = pd.DataFrame({"source_id": np.arange(0, 60, 2) + 10**6})
    known, judged = choose_known(truth, seen, reference), choose_judged(truth, seen)
    assert not set(star[known]) & set(star[judged])
    assert len(set(star[known])) == known.size
    for row in known:
        same = truth[(truth["source_id"] == truth["source_id"][row]) & (truth["failed"] == 0)]
        assert truth["snr_r"][row] == same["snr_r"].max()
    rest = truth.iloc[judged]
    assert (rest["kind"] == "mdwarf").all()
    assert (rest["snr_r"] >= 5).all()
    assert not rest["is_binary"].any()


def test_a_comparison_of_other_settings_is_not_mixed_in(tmp_path):
    from benchmarks.peers.run import compare_peers
    from benchmarks.peers.survey import CaseConfig
    from jaxmdwarf.errors import UsageError
    from jaxmdwarf.workflows.progress import Silent

    with pytest.raises(UsageError, match="no peer nobody"):
        compare_peers(tmp_path, [], CaseConfig(), methods=["nobody"], progress=Silent())
    (tmp_path / "config.json").write_text('{"n_spectra": 7}')
    with pytest.raises(UsageError, match="other settings"):
        compare_peers(tmp_path, [21], CaseConfig(), progress=Silent())


def test_the_command_renders_what_another_file_holds(tmp_path, capsys):
    from benchmarks.peers.__main__ import main
    from benchmarks.peers.run import Answer, summarise
    from benchmarks.peers.survey import CaseConfig
    from jaxmdwarf.io.json_files import write_json

    estimates, truth, snr = make_estimates()
    answers = {
        "payne": [Answer(estimates["theirs"], 1.0)],
        "ours": [Answer(estimates["ours"], 1.0)],
    }
    file = tmp_path / "peers.json"
    write_json(file, summarise(answers, truth, [snr], [21], CaseConfig()))
    assert main(["--render", "--result", str(file)]) == 0
    told = capsys.readouterr().out
    assert "The Payne without transfer" in told
    assert "1,500 judged spectra" in told


def test_the_page_shows_what_the_file_of_results_holds():
    import json

    from benchmarks.peers.page import PAGE, README, put_tables, render_summary, render_tables
    from benchmarks.peers.run import RESULT

    assert RESULT.stat().st_size < 200_000
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    for page, tables in ((PAGE, render_tables(result)), (README, render_summary(result))):
        text = page.read_text(encoding="utf-8")
        assert put_tables(text, tables) == text, "python -m benchmarks.peers --render"
