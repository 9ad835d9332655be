"""The small functions under the spectra, against closed forms, quadrature and astropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling.models import BlackBody
from scipy.interpolate import lagrange
from scipy.special import expn

from jaxmdwarf.simulate import rosseland
from jaxmdwarf.simulate.atmosphere import (
    TemperatureStructure,
    build_atmosphere,
    grey_temperature,
    optical_depth_scale,
)
from jaxmdwarf.simulate.chemistry import chebyshev
from jaxmdwarf.simulate.emergent import emergent_flux, flux_transmission, planck_flux
from jaxmdwarf.simulate.interpolation import cubic_weights
from jaxmdwarf.simulate.streams import RandomStreams


def test_cubic_weights_are_the_four_point_lagrange_polynomial_and_hold_the_ends():
    rng = np.random.default_rng(0)
    start, step, n = 2.5, 0.4, 7
    nodes = start + step * np.arange(n)
    table = rng.normal(size=n)
    x = np.r_[rng.uniform(nodes[0], nodes[-1], 40), nodes]
    expected = []
    for one in x:
        first = int(np.clip(np.floor((one - start) / step + 1e-9), 1, n - 3)) - 1
        own = slice(first, first + 4)
        expected.append(np.polyval(lagrange(nodes[own] - one, table[own]), 0.0))
    weights = np.asarray(cubic_weights(jnp.asarray(x, jnp.float32), start, step, n))
    assert weights.shape == (len(x), n)
    np.testing.assert_allclose(weights @ table, expected, atol=2e-5)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    assert ((np.abs(weights) > 0).sum(axis=1) <= 4).all()
    ends = np.asarray(cubic_weights(jnp.array([-50.0, 99.0]), start, step, n))
    np.testing.assert_allclose(ends @ table, table[[0, -1]], atol=1e-6)


def test_transmission_is_twice_the_third_exponential_integral():
    tau = np.r_[0.0, np.logspace(-3, 1.5, 400)]
    found = np.asarray(flux_transmission(jnp.asarray(tau)))
    assert np.abs(found - 2 * expn(3, tau)).max() < 0.008
    fine = np.linspace(0, 40, 400_001)
    values = np.asarray(flux_transmission(jnp.asarray(fine)), float)
    np.testing.assert_allclose(np.trapezoid(values, fine), 2 / 3, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(flux_transmission)(0.0), -2.0, rtol=1e-3)


def test_planck_flux_is_that_of_astropy():
    for temperature, wave in ((2700.0, 6300.0), (3900.0, 8800.0), (9000.0, 12_000.0)):
        unit = u.erg / u.s / u.cm**2 / u.AA / u.sr
        expected = BlackBody(temperature * u.K, scale=1 * unit)(wave * u.AA).value * np.pi
        found = planck_flux(jnp.array(temperature), jnp.array(wave))
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_emergent_flux_of_simple_atmospheres():
    """A source that is linear in optical depth gives that at 2/3; an isothermal one gives itself.

    The first holds for the approximation of the transmission as well, whose integral is exact.
    """
    mass = np.logspace(-4, 2, 70)
    opacity = np.stack([np.full(70, 0.7), np.full(70, 3.0), 0.2 * mass**0.5], axis=1)
    # The integral of kappa dm: kappa is a power of the mass.
    tau = np.stack([0.7 * mass, 3.0 * mass, 0.2 * mass**1.5 / 1.5], axis=1)
    slope = np.array([2.0, 0.5, 1.0])
    compiled = jax.jit(emergent_flux)
    emergent = compiled(*map(jnp.asarray, (opacity, mass, 1.5 + slope * tau)))
    same = compiled(*map(jnp.asarray, (opacity, mass, np.full((70, 3), 4.5))))
    np.testing.assert_allclose(emergent, 1.5 + slope * 2 / 3, rtol=4e-3)
    np.testing.assert_allclose(same, 4.5, rtol=1e-6)


def test_chebyshev_series_in_ln_t_are_exact_for_polynomials_and_hold_their_ends():
    nodes = chebyshev.chebyshev_nodes(24)
    assert (np.diff(nodes) > 0).all()
    assert (nodes[0], nodes[-1]) == (pytest.approx(1000, rel=3e-3), pytest.approx(12_000, rel=3e-3))
    # Their distances from the middle are those of cosines.
    middle = np.log(1000 * 12_000) / 2
    np.testing.assert_allclose(
        np.log(nodes) - middle, np.log(12) / 2 * -np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    )

    def function(t):
        x = np.log(t / 3000)
        return np.stack([1 + x - 0.3 * x**3 + 0.01 * x**5, np.exp(-x)], axis=-1)

    coefficients = chebyshev.fit_chebyshev(function(nodes))
    assert coefficients.shape == (16, 2)
    t = np.array([1000.0, 1234.0, 3000.0, 5999.0, 12_000.0])
    basis = chebyshev.chebyshev_basis(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(basis @ coefficients, function(t), rtol=2e-5)
    outside = chebyshev.chebyshev_basis(jnp.array([10.0, 1e6]))
    np.testing.assert_allclose(outside, chebyshev.chebyshev_basis(jnp.array([1e3, 1.2e4])))
    values = np.arange(6.0).reshape(2, 3)
    found = chebyshev.multiply_constants(jnp.asarray(values), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(found, values @ [1, 2, 4])


def test_grey_temperatures_are_those_of_hopf():
    """Exact values of q(tau): Mihalas (1978), table 3-2."""
    tau = np.array([0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
    hopf = np.array([0.577351, 0.627919, 0.680240, 0.698540, 0.707916, 0.710398])
    expected = 4000.0 * (0.75 * (tau + hopf)) ** 0.25
    found = grey_temperature(jnp.asarray(tau), 4000.0)
    np.testing.assert_allclose(found, expected, rtol=4.5e-3)
    np.testing.assert_allclose(found[jnp.array([0, 5])], expected[[0, 5]], rtol=3e-5)


def build(labels, **changes):
    """Atmospheres in one program: optical depths, temperatures, pressures, masses; (n, 80) each."""
    structure = TemperatureStructure(**changes)
    make = jax.jit(jax.vmap(lambda one: build_atmosphere(one, structure=structure, n_depth=80)))
    return [np.asarray(part, np.float64) for part in make(jnp.array(labels, jnp.float32))]


@pytest.fixture(scope="module")
def atmospheres():
    """Of a metal-poor dwarf, a dwarf, a subgiant and a giant."""
    labels = [(3400, 4.7, -0.4, 0.1), (3000, 4.9, 0, 0), (3000, 3.0, 0, 0), (3000, 2.0, 0, 0)]
    return build(labels)


def test_layers_are_equidistant_in_the_logarithm_of_optical_depth():
    scale = optical_depth_scale()
    assert (len(scale), scale[0]) == (40, pytest.approx(1e-6))
    assert scale[-1] == pytest.approx(10**1.2)
    np.testing.assert_allclose(np.diff(np.log10(scale)), 7.2 / 39)


def test_atmospheres_are_in_hydrostatic_equilibrium_and_carry_their_mass(atmospheres):
    tau, temperature, pressure, mass = (part[0] for part in atmospheres)
    np.testing.assert_allclose(pressure, mass * 10**4.7, rtol=1e-5)
    assert (np.diff(temperature) > 0).all()
    # The temperature of the integration is the final one but for the factor of the anchor.
    anchor = np.interp(np.log(0.082), np.log(tau), temperature)
    np.testing.assert_allclose(anchor, 3400.0, rtol=1e-5)

    factors = np.linspace(0.5, 1.1, 241)[:, None]
    kappa = rosseland.rosseland_mean(temperature * factors, pressure, -0.4)
    slope = np.gradient(np.log(pressure), np.log(tau))
    # dP/dtau = g / kappa in all layers, at one factor.
    miss = np.abs(np.log(slope * pressure / tau / 10**4.7 * np.asarray(kappa)))[:, 3:-3].max(axis=1)
    assert miss.min() < 0.03
    # At the top opacity is constant: P = g tau / kappa.
    top = np.asarray(kappa)[int(np.argmin(miss)), 0]
    np.testing.assert_allclose(pressure[0], 10**4.7 * 1e-6 / top, rtol=0.03)


def test_layers_that_radiate_are_grey_but_for_their_cooling():
    """With convection that carries nothing (a steep adiabat) the whole run is radiative."""
    changes = {"adiabatic_gradient": 50.0, "giant_adiabatic_gradient": 50.0}
    cooling = {"surface_cooling": 0.25, "cooling_depth": 0.02, "cooling_power": 1.3}
    cooling |= {"giant_cooling_depth": 0.05}
    labels = [(3600.0, logg, 0.0, 0.0) for logg in (4.9, 3.0, 1.5)]
    found = build(labels, gradient=0.1, **changes, **cooling)
    for tau, temperature, depth in zip(*found[:2], (0.02, 0.035, 0.05), strict=True):
        hopf = 0.7104 - 0.1331 * np.exp(-3.4488 * tau)
        expected = (tau + hopf) ** 0.25
        expected *= 1 - 0.25 / (1 + (tau / depth) ** 1.3)
        expected *= 1 + 0.1 * np.tanh(np.log10(tau / 0.082))
        ratio = temperature / expected
        np.testing.assert_allclose(ratio / ratio[40], 1.0, rtol=4e-3)


def test_deep_layers_follow_the_adiabat_of_their_gravity(atmospheres):
    _, temperatures, pressures, _ = atmospheres
    for row, gradient in ((1, 0.075), (2, 0.2375), (3, 0.4)):
        temperature, pressure = temperatures[row], pressures[row]
        slope = np.gradient(np.log(temperature), np.log(pressure))[-15:-1]
        assert slope.max() < 1.02 * gradient
        if row == 1:
            np.testing.assert_allclose(slope, gradient, rtol=0.05)


def test_the_fit_of_the_continuum_mean_finds_the_polynomial_that_it_is_given(monkeypatch):
    """A mean whose logarithm is a Chebyshev series of known coefficients, in the spans stated."""
    rng = np.random.default_rng(1)
    degrees = (3, 2, 1)
    truth = rng.normal(size=[degree + 1 for degree in degrees])

    def mean(t, p, mh):
        x = (2 * jnp.log(t) - np.log(3000 * 9000)) / np.log(3)
        y = (2 * jnp.log(p) - np.log(1e10)) / np.log(1e6)
        z = (2 * mh + 3.0) / 5.0
        one = [jnp.stack([jnp.ones_like(a), a, 2 * a**2 - 1, 4 * a**3 - 3 * a]) for a in (x, y, z)]
        terms = [a[: degree + 1] for a, degree in zip(one, degrees, strict=True)]
        return jnp.exp(jnp.einsum("i,j,k,ijk->", *terms, jnp.asarray(truth)))

    monkeypatch.setattr(rosseland, "integrate_continuum", mean)
    monkeypatch.setattr(rosseland, "_DEGREES", degrees)
    found, worst = rosseland.fit_continuum_mean()
    np.testing.assert_allclose(found, truth, atol=2e-4)
    assert 0 < worst < 1e-3
    # What a polynomial cannot follow is told.
    monkeypatch.setattr(
        rosseland, "integrate_continuum", lambda *at: mean(*at) * (1 + (at[0] > 5e3))
    )
    _, worst = rosseland.fit_continuum_mean()
    assert 0.1 < worst < np.log(2)


def test_random_numbers_are_those_of_their_purpose_item_and_survey():
    streams = RandomStreams(7)
    items = np.array([4, 2, 4, 9])
    drawn = streams.normal("noise", items, 5)
    assert drawn.shape == (4, 5)
    np.testing.assert_array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(streams.normal("noise", np.array([9]), 5)[0], drawn[3])
    others = [
        RandomStreams(8).normal("noise", items, 5),
        streams.normal("cosmic_rays", items, 5),
        streams.normal("flux_calibration_fibre", items, 5),
    ]
    for other in others:
        assert (other != drawn).all()
    assert (drawn[0] != drawn[1]).all()
    big = streams.normal("noise", np.arange(400), 50)
    assert abs(big.mean()) < 0.03
    assert abs(big.std() - 1) < 0.02
    # A survey of a seed stays what it is: figures in the pages name their seeds.
    np.testing.assert_allclose(drawn[1, :3], [-0.21374783, 1.7389797, 0.8585796], rtol=1e-6)
