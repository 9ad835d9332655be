"""Priors on a star are fitted to the stars of the survey."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.training.transfer.label_posterior import StarSample
from jaxmdwarf.training.transfer.star_priors import learn_star_priors


def test_mean_and_width_are_those_of_the_stars(universe):
    theory, domain, labels, _ = universe
    # A theory that lacks nothing but what it says: the flux of nature less what is missed.
    n_pix = theory.grid.n_pix
    correction = np.zeros((3, n_pix), np.float32)
    wave = np.arange(n_pix)
    correction[0] = 0.05 * np.sin(wave / 7.0) + 0.04 * np.exp(-(((wave - 100) / 40.0) ** 2))
    correction[1] = 0.01 * np.cos(wave / 11.0)
    model = CorrectedModel(
        theory,
        jnp.asarray(correction),
        jnp.zeros((0, n_pix), jnp.float32),
        theory.model_error,
        LabelFeatures(("teff", "mh"), (3600.0, 0.0), (200.0, 1.0), 1),
        (LabelPrior("mh", 0.1, 0.1),),
    )
    stars = StarSample(domain, theory, np.arange(domain.n_spec))
    kept, start = np.ones(domain.n_spec, bool), np.zeros(4, np.float32)
    (found,) = learn_star_priors(model, stars, kept, start, names=("mh",))
    assert found.mean == pytest.approx(labels[:, 2].mean(), abs=0.03)
    assert found.sigma == pytest.approx(labels[:, 2].std(), rel=0.15)
    # Stars that do not count are as if they were not there.
    rich = labels[:, 2] > np.median(labels[:, 2])
    (of_rich,) = learn_star_priors(model, stars, rich, start, names=("mh",))
    assert of_rich.mean == pytest.approx(labels[rich, 2].mean(), abs=0.03)
    assert learn_star_priors(model, stars, kept, start, names=()) == model.label_priors
