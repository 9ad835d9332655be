"""What is shown of fitted spectra beside their models."""

import jax.numpy as jnp
import numpy as np

from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows import judging
from jaxmdwarf.workflows.judging import FittedRows, map_domains

GRID = PixelGrid.linear(6500.0, 6507.0, 1.0)


def make_fitted(n):
    rng = np.random.default_rng(4)
    flux, model = rng.uniform(0.5, 1.5, (2, n, GRID.n_pix)).astype(np.float32)
    ivar = rng.uniform(10, 90, flux.shape).astype(np.float32)
    ivar[rng.random(flux.shape) < 0.3] = 0.0
    flux[ivar == 0] = 1e6
    snr = rng.permutation(np.arange(10.0, 10.0 + n))
    snr[3] = np.nan
    observed = SpectrumBatch(*map(jnp.asarray, (flux, ivar, ivar / 2)), GRID)
    return FittedRows(observed, model, snr)


def test_domains_are_compared_by_the_brightest_pairs_with_gaps_filled_alike(monkeypatch):
    fitted, asked = make_fitted(14), {}

    def observe(model, ivar, rng, *, information, grid):
        asked.update(model=model, ivar=ivar, information=information, grid=grid)
        return "mock"

    monkeypatch.setattr(judging, "simulate_observation", observe)
    monkeypatch.setattr(
        judging, "tsne_pairs", lambda *pair, seed: asked.update(pair=pair, seed=seed)
    )
    map_domains(fitted, n_pair=11, seed=6)
    first, second = asked.pop("pair")
    assert (first, asked.pop("seed")) == ("mock", 6)
    order = sorted(range(14), key=lambda row: -(0 if row == 3 else fitted.snr[row]))[:11]
    flux, ivar = (np.asarray(part)[order] for part in (fitted.observed.flux, fitted.observed.ivar))
    np.testing.assert_array_equal(second[ivar > 0], flux[ivar > 0])
    assert (second[ivar == 0] == 1).all()
    np.testing.assert_array_equal(asked["model"], fitted.model[order])
    np.testing.assert_array_equal(asked["ivar"], ivar)
    np.testing.assert_array_equal(asked["information"], ivar / 2)
    assert asked["grid"] == GRID
    asked.clear()
    assert map_domains(make_fitted(9)) is None
    assert not asked  # too few pairs
