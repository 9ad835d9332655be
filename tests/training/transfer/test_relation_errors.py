"""What labels are off by that relations tie to others."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.training.transfer import relation_errors
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.training.transfer.domain_fits import DomainFits
from jaxmdwarf.training.transfer.relation_errors import (
    expect_relation_errors,
    join_label_errors,
    measure_relation_offsets,
)
from tests.training.transfer.fit_covariance import COVARIANCE, SPACE, WIDTH

SEQUENCE = RelationPrior("logg", ("teff",), ((0,), (1,)), (4.9, -0.3), 0.05, (3500.0,), (500.0,))
ALPHA = RelationPrior("alpha_m", ("mh",), ((0,), (1,)), (0.05, -0.2), 0.06, (0.0,), (1.0,))


def test_labels_off_their_relations_tell_of_errors(theory, model, monkeypatch):
    """Spectra put log g 0.2 dex off, beside errors that they state, and [alpha/M] not."""
    n, rng = 2000, np.random.default_rng(9)
    teff, mh = rng.normal(3500, 200, n), rng.normal(0, 0.2, n)
    true = np.column_stack([teff, 4.9 - 0.3 * (teff - 3500) / 500, mh, 0.05 - 0.2 * mh])
    true[:, [1, 3]] += rng.standard_normal((n, 2)) * [0.05, 0.06]
    root = np.linalg.cholesky(COVARIANCE * np.outer([1, 0.1, 1, 1], [1, 0.1, 1, 1]))
    labels = true + rng.standard_normal((n, 4)) @ root.T
    labels[:, 1] += rng.normal(0, 0.2, n)
    good, asked = np.arange(n) % 9 > 0, []
    labels[~good] += 1.0

    def fit_domain(model, observed, rows, start, *, priors):
        assert not priors
        asked.append(rows)
        np.testing.assert_array_equal(start, labels[rows] + 1.0)
        covariance = np.zeros((len(rows), 5, 5))
        covariance[:, :4, :4] = root @ root.T
        errors = np.sqrt(np.einsum("naa->na", covariance))
        result = SimpleNamespace(labels=labels[rows], errors=errors, covariance=covariance)
        return DomainFits(result, good[rows])

    monkeypatch.setattr(relation_errors, "fit_domain", fit_domain)
    snr = np.where(np.arange(n) % 2, 50.0, 5.0)
    flux = np.ones((n, theory.grid.n_pix), np.float32)
    observed = ObservedDomain(flux, flux, flux, theory.grid, np.zeros(n), snr)
    related = replace(model, label_priors=(LabelPrior("mh", 0.0, 0.2), SEQUENCE, ALPHA))
    offsets = measure_relation_offsets(related, observed, np.arange(n), labels + 1.0)
    found = expect_relation_errors(offsets)
    assert set(found) == {"logg", "alpha_m"}
    assert found["logg"] == pytest.approx(0.2, rel=0.1)
    assert found["alpha_m"] < 0.02
    # Visits of a star count as one.
    np.testing.assert_array_equal(offsets.share, np.ones(len(offsets.away)))
    star = np.arange(n) // 4  # two of each are bright
    paired = measure_relation_offsets(
        related, replace(observed, star=star), np.arange(n), labels + 1.0
    )
    told = star[1::2][good[1::2]]
    np.testing.assert_array_equal(paired.share, 1 / np.bincount(told)[told])
    assert 0.5 in paired.share
    # The brighter half is asked.
    np.testing.assert_array_equal(asked[0], np.arange(1, n, 2))
    few = replace(observed, snr=np.r_[np.full(29, 50.0), np.full(n - 29, 5.0)])
    assert measure_relation_offsets(related, few, np.arange(58), labels + 1.0) is None
    alone = replace(model, label_priors=(LabelPrior("mh", 0.0, 0.2),))
    assert measure_relation_offsets(alone, observed, np.arange(n), labels) is None


def test_errors_of_relations_stand_beside_those_that_literature_tells():
    told = jnp.asarray(np.full((4, 4), 1e-4), jnp.float32)
    joined = np.asarray(join_label_errors(SPACE, told, {"logg": 0.2}))
    by = np.zeros((4, 4))
    by[1, 1] = (0.2 / WIDTH[1]) ** 2
    np.testing.assert_allclose(joined, 1e-4 + by, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(join_label_errors(SPACE, None, {"logg": 0.2})), by)
    assert join_label_errors(SPACE, told, {}) is told
    assert join_label_errors(SPACE, None, {}) is None
