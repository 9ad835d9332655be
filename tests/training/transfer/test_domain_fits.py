"""Spectra of a domain are fitted with priors or without, and good fits are told."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.priors import LabelPrior
from jaxmdwarf.training.transfer.domain_fits import fit_domain


@pytest.fixture(scope="module")
def right(universe):
    """A model without a gap, whose prior is 0.4 dex off, and spectra of fifty stars."""
    theory, domain, labels, noise_free = universe
    rows = np.arange(100, 150)
    features = LabelFeatures(("teff", "mh"), (3600.0, -0.1), (200.0, 0.2), 1)
    n_pix = theory.grid.n_pix
    wrong = LabelPrior("mh", float(labels[:, 2].mean()) + 0.4, 0.005)
    model = CorrectedModel(
        theory,
        jnp.zeros((3, n_pix)),
        jnp.zeros((0, n_pix)),
        theory.model_error,
        features,
        (wrong,),
    )
    missed = noise_free - np.asarray(
        theory.predict_scaled_batch(theory.label_space.scale(jnp.asarray(labels, jnp.float32)))
    )
    return model, replace(domain, flux=(domain.flux - missed).astype(np.float32)), labels, rows


def test_priors_count_unless_they_are_not_to(right):
    model, domain, labels, rows = right
    (held, good), (free, free_good) = (
        fit_domain(model, domain, rows, labels[rows], priors=priors) for priors in (True, False)
    )
    assert good.shape == free_good.shape == rows.shape
    away = [np.asarray(one.labels)[:, 2] - labels[rows, 2] for one in (held, free)]
    pull = model.label_priors[0].mean - labels[rows, 2]
    assert np.median(away[0] / pull) > 0.9
    assert abs(np.median(away[1][free_good])) < 0.05
    assert model.label_priors[0].sigma == 0.005


def test_fits_at_a_bound_or_without_errors_are_not_good(right):
    model, domain, labels, rows = right
    ivar = domain.ivar.copy()
    ivar[rows[3]] = 0.0
    flux = domain.flux.copy()
    flux[rows[5]] = 0.2  # no labels are like this
    spoilt = replace(
        domain, flux=flux, ivar=ivar, information=np.where(ivar > 0, domain.information, 0)
    )
    found, good = fit_domain(model, spoilt, rows, labels[rows], priors=False)
    assert not good[3]
    assert not good[5]
    assert good.mean() > 0.6
    assert np.isfinite(np.asarray(found.errors)[good]).all()


def test_spectra_that_are_at_rest_in_a_frame_have_its_velocity(right):
    model, domain, labels, rows = right
    frame = np.linspace(-80.0, 80.0, rows.size)
    moved = fit_domain(model, domain, rows, labels[rows], frame_kms=frame).result
    still = fit_domain(model, domain, rows, labels[rows]).result
    np.testing.assert_allclose(np.asarray(moved.rv_kms) - np.asarray(still.rv_kms), frame, atol=0.2)
