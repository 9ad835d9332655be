"""Scores of validation spectra are of the samples that their names say, the right way round."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.diagnostics.domain_scores import (
    discriminant_accuracy,
    explained_fraction,
    latent_change,
    marginal_distance,
)
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.training.cyclestar import validation
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.data import TransferData
from jaxmdwarf.training.cyclestar.loop import TransferRecord, TransferReport
from jaxmdwarf.training.cyclestar.steps import TransferState
from jaxmdwarf.training.cyclestar.validation import validate_transfer
from jaxmdwarf.wavelengths import PixelGrid

N, N_PIX = 120, 16
SPACE = LabelSpace(("teff", "mh"), ("K", "dex"), (3000.0, -1.0), (4000.0, 0.5))
GRID = PixelGrid.linear(7000.0, 7015.0, 1.0)
STATE = TransferState(*[()] * len(TransferState._fields))
# The brighter half are the odd ones.
BRIGHT = np.arange(N) % 2 == 1


@pytest.fixture(scope="module")
def data():
    emulator = TableModel(jnp.ones((4, N_PIX)), jnp.zeros(N_PIX), SPACE, GRID)
    flux, labels = jnp.ones((N, N_PIX)), jnp.zeros((N, 2))
    ivar = np.where(BRIGHT, 400.0, 100.0)[:, None] * np.ones(N_PIX)
    ivar[:, :4] = 0
    held = jnp.asarray(ivar, jnp.float32)
    return TransferData(
        emulator, labels, flux, flux, labels, flux, held, flux[0], jnp.ones((1, N_PIX))
    )


@pytest.fixture
def measured(monkeypatch):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((N, 3))
    split = np.column_stack([shared[:, 0], rng.standard_normal((N, 4))])
    faint = np.where(BRIGHT, 0.0, 40.0)[:, None]
    found = {
        "losses": {"critic_obs": jnp.float32(1.5), "rec_obs": jnp.float32(2.5)},
        "latents": {
            "shared_synth": shared + 0.5,
            "shared_obs": shared,
            "split_obs": split,
            "shared_synth_obs": shared + 0.6,
            "shared_obs_synth": 1.4 * shared,
            "split_synth_obs": split + 0.1 * rng.standard_normal(split.shape),
        },
        "coefficients": {
            "observed": rng.standard_normal((N, 4)),
            "transferred": rng.standard_normal((N, 4)) + 0.8 + faint,
            "untransferred": rng.standard_normal((N, 4)) + 2.0 + 2 * faint,
        },
        "spectra": {
            name: jnp.asarray(rng.standard_normal((N, N_PIX)))
            for name in ("observed", "transferred", "untransferred")
        },
        "slopes": {
            "theory": np.ones((2, 5, N_PIX)),
            "carried": np.array([2.0, -1.0])[:, None, None] * np.ones((5, N_PIX)),
        },
    }
    monkeypatch.setattr(validation, "_validate", lambda state, data, config: found)
    return found


def test_scores_are_of_the_right_samples_and_the_gap_of_the_brighter_half(data, measured):
    scores = validate_transfer(STATE, data, CycleStarConfig())
    clouds = {name: cloud[BRIGHT] for name, cloud in measured["coefficients"].items()}
    latents = measured["latents"]
    observed, carried, theory = (
        clouds[name] for name in ("observed", "transferred", "untransferred")
    )
    expected = {
        "critic_obs": 1.5,
        "rec_obs": 2.5,
        "gap": marginal_distance(observed, carried) / marginal_distance(observed, theory),
        "classifier_accuracy": discriminant_accuracy(observed, carried),
        "classifier_accuracy_none": discriminant_accuracy(observed, theory),
        "shared_accuracy": discriminant_accuracy(latents["shared_synth"], latents["shared_obs"]),
        "shared_synth_change": latent_change(latents["shared_synth"], latents["shared_synth_obs"]),
        "shared_obs_change": latent_change(latents["shared_obs"], latents["shared_obs_synth"]),
        "split_change": latent_change(latents["split_obs"], latents["split_synth_obs"]),
        "split_explains_shared": explained_fraction(latents["split_obs"], latents["shared_obs"]),
        "shared_explains_split": explained_fraction(latents["shared_obs"], latents["split_obs"]),
        "slope_cosine_teff": 1.0,
        "slope_cosine_mh": -1.0,
    }
    assert scores == pytest.approx(expected)
    # Each is one of its own, so that none can stand for another.
    numbers = [round(value, 4) for name, value in scores.items()]
    assert len(set(numbers)) >= len(numbers) - 1
    assert 0 < scores["gap"] < 1


def test_a_gap_that_was_none_is_not_divided_by(data, measured):
    clouds = measured["coefficients"]
    clouds["untransferred"] = clouds["observed"]
    found = validate_transfer(STATE, data, CycleStarConfig())
    bright = {name: cloud[BRIGHT] for name, cloud in clouds.items()}
    assert marginal_distance(bright["observed"], bright["untransferred"]) < 1e-3
    distance = marginal_distance(bright["observed"], bright["transferred"])
    assert found["gap"] == pytest.approx(distance / 1e-3)


@pytest.mark.parametrize("where", ["losses", "latents", "coefficients"])
def test_scores_of_what_is_no_number_are_none(data, measured, where):
    name = next(iter(measured[where]))
    spoilt = np.array(measured[where][name])
    spoilt[(0,) * spoilt.ndim] = np.nan
    measured[where][name] = jnp.asarray(spoilt)
    found = validate_transfer(STATE, data, CycleStarConfig(), judge=lambda sample: {"gap": 0.0})
    assert np.isnan(found["gap"])
    assert set(found) == {"critic_obs", "rec_obs", "gap"}


def test_judges_are_given_spectra_and_latents_and_have_the_last_word(data, measured):
    seen = {}

    def judge(sample):
        seen.update(vars(sample))
        return {"gap": np.float32(0.25), "own": 3}

    found = validate_transfer(STATE, data, CycleStarConfig(), judge=judge)
    assert (found["gap"], found["own"]) == (0.25, 3.0)
    assert found["critic_obs"] == 1.5
    for name in ("observed", "transferred", "untransferred"):
        np.testing.assert_array_equal(seen[name], measured["spectra"][name])
    for name in ("shared_synth", "shared_obs", "split_obs"):
        np.testing.assert_array_equal(seen[name], measured["latents"][name])
    assert len(seen) == 6


def test_lines_of_a_log_are_flat_and_numbers_of_a_report_have_stable_names():
    record = TransferRecord(40, {"total": 1.0}, {"gap": 0.5, "critic_obs": 1.2}, 12.34567)
    assert record.as_dict() == {
        "step": 40, "total": 1.0, "val_gap": 0.5, "val_critic_obs": 1.2, "iterations_per_s": 12.346,
    }  # fmt: skip
    scores = {"classifier_accuracy": 0.6, "classifier_accuracy_none": 0.9}
    report = TransferReport((record,), 40, 30, True, None, scores, 80, 20, 10, 500, 12.0, ("bad",))
    metrics = report.metrics()
    assert metrics.pop("classifier_accuracy") == {"none": 0.9, "transfer": 0.6}
    assert metrics == {
        "iterations_per_s": 12.0, "steps": 40, "kept_step": 30, "stopped_early": True,
        "diverged_at": None, "n_train": 80, "n_validation": 20, "n_test": 10, "n_labels": 500,
        "faults": ["bad"], "validation": scores,
    }  # fmt: skip
