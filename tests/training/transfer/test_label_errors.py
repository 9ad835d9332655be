"""What common stars and repeat visits tell of errors that no pixel tells of."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.training.transfer.label_errors import (
    LEAST_STARS,
    find_added,
    learn_velocity_error,
)


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.3])
def test_what_is_missing_from_stated_errors_is_found(missing):
    rng = np.random.default_rng(3)
    stated = rng.uniform(0.05, 0.3, 1500)
    away = rng.standard_normal(1500) * np.hypot(stated, missing)
    away[:15] += 5.0
    assert abs(find_added(away, stated) - missing) < 0.04


@pytest.fixture(scope="module")
def visits(universe):
    """A model that is right, two visits of each of 200 stars, and their labels."""
    theory, domain, labels, noise_free = universe
    rows = np.arange(400)
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 1)
    n_pix = theory.grid.n_pix
    model = CorrectedModel(
        theory, jnp.zeros((3, n_pix)), jnp.zeros((0, n_pix)), theory.model_error, features
    )
    missed = noise_free - np.asarray(
        theory.predict_scaled_batch(theory.label_space.scale(jnp.asarray(labels, jnp.float32)))
    )
    right = replace(domain, flux=(domain.flux - missed).astype(np.float32)).take(rows)
    return model, replace(right, star=np.arange(400) // 2), labels[rows]


@pytest.mark.parametrize("missing_kms", [0.0, 60.0])
def test_zero_points_of_wavelength_scales_are_told_by_repeat_visits(visits, missing_kms):
    model, domain, labels = visits
    offset = missing_kms * np.random.default_rng(5).standard_normal(domain.n_spec)
    between = np.diff(offset.reshape(-1, 2), axis=1)
    offset[:4] += [0.0, 900.0, 0.0, -900.0]  # two binaries
    found = learn_velocity_error(
        model, replace(domain, frame_kms=offset), np.arange(domain.n_spec), labels
    )
    # Stated errors of single visits are 17 km/s here.
    assert float(found) == pytest.approx(np.std(between) / np.sqrt(2), rel=0.08, abs=6.0)


def test_without_repeat_visits_nothing_is_said_of_velocities(visits):
    model, domain, labels = visits
    rows = np.arange(domain.n_spec)
    assert learn_velocity_error(model, replace(domain, star=None), rows, labels) is None
    alone = replace(domain, star=rows)
    assert learn_velocity_error(model, alone, rows, labels) is None
    few = rows[: 2 * LEAST_STARS - 2]
    assert learn_velocity_error(model, domain, few, labels[few]) is None
