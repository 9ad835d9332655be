"""Continuous and Rosseland mean opacity against published values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.simulate import continuum, rosseland
from jaxmdwarf.simulate.abundances import number_fractions
from jaxmdwarf.simulate.chemistry import equilibrium as chemistry

SOLAR = number_fractions(0.0, 0.0)
# One program for all gases of one shape, not one for each operation.
equilibrium = jax.jit(chemistry.equilibrium)
continuum_opacity = jax.jit(continuum.continuum_opacity, static_argnames="n_coarse")
rosseland_mean = jax.jit(rosseland.rosseland_mean)
rosseland_mean_continuum = jax.jit(rosseland.rosseland_mean_continuum)
rosseland_mean_freedman2014 = jax.jit(rosseland.rosseland_mean_freedman2014)


@pytest.mark.parametrize(
    ("wave_aa", "published"),
    [  # Geltman 1962 and Wishart 1979 as in Gray (2005), 1e-18 cm^2 per ion
        (4000.0, 23.2),
        (5000.0, 29.3),
        (6000.0, 34.3),
        (8500.0, 39.9),
        (12000.0, 29.2),
        (16000.0, 1.1),
    ],
)
def test_hminus_photodetachment(wave_aa, published):
    got = float(continuum.hminus_bound_free(wave_aa))
    assert got == pytest.approx(published, rel=0.03, abs=0.4)


def test_hminus_photodetachment_ends_at_the_threshold_without_bad_gradients():
    assert float(continuum.hminus_bound_free(16500.0)) == 0.0
    slope = jax.grad(lambda w: continuum.hminus_bound_free(w))
    for wave in (16400.0, 16419.0, 16500.0):
        assert np.isfinite(float(slope(wave)))


@pytest.mark.parametrize(
    ("wave_aa", "theta", "published"),
    [  # Bell & Berrington 1987 (J. Phys. B 20, 801), table 1, 1e-26 cm^4 per dyn
        (5063.0, 0.5, 0.0994),
        (5063.0, 1.0, 0.196),
        (9113.0, 1.0, 0.579),
        (30377.0, 1.0, 5.91),
        (30377.0, 2.0, 10.4),
    ],
)
def test_hminus_free_free(wave_aa, theta, published):
    got = float(continuum.hminus_free_free(wave_aa, 5040.0 / theta))
    assert got == pytest.approx(published, rel=0.06)


def test_h2minus_free_free_reproduces_bell():
    # Bell 1980, table 2: rows of wavelength, columns theta = 0.5, 1.6, 3.6
    table = {
        9113.0: (0.273, 0.552, 0.963),
        5696.0: (0.110, 0.255, 0.507),
        18226.0: (1.05, 1.87, 2.68),
    }
    for wave, row in table.items():
        got = [float(continuum.h2minus_free_free(wave, 5040.0 / t)) for t in (0.5, 1.6, 3.6)]
        np.testing.assert_allclose(got, row, rtol=0.01)


def test_heminus_free_free_is_near_john_1994():
    # John 1994, at 5063 A and theta = 0.5, 1.0, 1.6: 0.033, 0.049, 0.066 (1e-26 cm^4 per dyn)
    got = [float(continuum.heminus_free_free(5063.0, 5040.0 / t)) for t in (0.5, 1.0, 1.6)]
    np.testing.assert_allclose(got, [0.033, 0.049, 0.066], rtol=0.35)


def test_rayleigh_cross_sections():
    # Leading terms 5.799e-13, 8.14e-13 and 5.484e-14 / lambda^4 and their dispersion
    wave = 50000.0
    for cross_section, leading in (
        (continuum.rayleigh_hydrogen, 5.799e-13),
        (continuum.rayleigh_h2, 8.14e-13),
        (continuum.rayleigh_helium, 5.484e-14),
    ):
        assert float(cross_section(wave)) * 1e-27 == pytest.approx(leading / wave**4, rel=2e-3)
    blue = 4000.0
    expected = 8.14e-13 / blue**4 + 1.28e-6 / blue**6 + 1.61 / blue**8
    assert float(continuum.rayleigh_h2(blue)) * 1e-27 == pytest.approx(expected, rel=1e-4)


def test_hminus_makes_the_continuum_of_a_dwarf():
    densities = equilibrium(3500.0, 1e5, SOLAR)
    wave = jnp.array([8500.0])
    absorption, scattering = continuum_opacity(wave, densities)
    stimulated = 1.0 - np.exp(-1.438777e8 / (8500.0 * 3500.0))
    hminus = np.exp(float(densities["H-"])) * 3.99e-17 * stimulated
    assert float(absorption[0]) == pytest.approx(hminus, rel=0.03)
    assert float(absorption[0]) > hminus * 0.995
    assert 0 < float(scattering[0]) < 0.01 * float(absorption[0])


def test_scattering_gains_on_absorption_in_metal_poor_gas():
    def ratio(mh):
        densities = equilibrium(2500.0, 1e6, number_fractions(mh, 0.0))
        absorption, scattering = continuum_opacity(jnp.array([6500.0]), densities)
        return float(scattering[0] / absorption[0])

    assert ratio(-3.0) > 10 * ratio(0.0)


def test_coarse_grid_is_interpolated_to_a_part_in_ten_thousand():
    densities = equilibrium(jnp.array([2200.0, 3000.0, 5000.0]), jnp.array([1e3, 1e5, 1e6]), SOLAR)
    wave = jnp.linspace(6000.0, 9000.0, 1501)
    coarse = continuum_opacity(wave, densities)
    direct = continuum_opacity(wave, densities, n_coarse=1501)
    for got, expected in zip(coarse, direct, strict=True):
        assert got.shape == (3, 1501)
        np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_continuum_gradient_with_temperature_agrees_with_finite_differences():
    with jax.enable_x64(True):
        wave = jnp.linspace(6000.0, 9000.0, 300)

        def opacity(t):
            densities = equilibrium(t, 1e5, number_fractions(0.0, 0.0))
            absorption, scattering = continuum_opacity(wave, densities)
            return jnp.log(absorption + scattering)

        opacity = jax.jit(opacity)
        t = jnp.asarray(3100.0)
        numeric = (opacity(t + 0.1) - opacity(t - 0.1)) / 0.2
        np.testing.assert_allclose(jax.jit(jax.jacfwd(opacity))(t), numeric, rtol=1e-5)


# --- Rosseland means -----------------------------------------------------------------------------


def test_freedman_fit_by_hand():
    # Equations 3-5 written out at 3000 K, 1e5 dyn cm^-2, [M/H] = 0 (high-temperature branch)
    t, p = np.log10(3000.0), 5.0
    low = 10.602 * np.arctan(t - 2.882) - 6.09e-15 / (p + 2.954) * np.exp((t + 2.526) ** 2) - 5.490
    high = 82.241 - 55.456 * t + 8.754 * t**2 + 0.7048 * p - 0.0414 * t * p
    got = float(rosseland_mean_freedman2014(3000.0, 1e5, 0.0))
    assert got == pytest.approx(10**low + 10**high, rel=1e-3)
    cold = float(rosseland_mean_freedman2014(500.0, 1e6, 0.0))
    t, p = np.log10(500.0), 6.0
    low = 10.602 * np.arctan(t - 2.882) - 6.09e-15 / (p + 2.954) * np.exp((t + 2.526) ** 2) - 5.490
    high = -14.051 + 3.055 * t + 0.024 * t**2 + 1.877 * p - 0.445 * t * p
    assert cold == pytest.approx(10**low + 10**high, rel=1e-3)


def test_freedman_fit_ends_where_its_tables_do():
    """Its equations have a pole at 1e-3 dyn cm^-2, where the outermost layers of giants are."""
    thin = [float(rosseland.rosseland_mean_freedman2014(2700.0, p, 0.0)) for p in (1e-5, 1e-3, 1.0)]
    assert thin[0] == thin[1] == thin[2]


def test_continuum_mean_polynomial_follows_the_quadrature():
    rng = np.random.default_rng(3)
    t = jnp.asarray(rng.uniform(3300.0, 8500.0, 40), jnp.float32)
    p = jnp.asarray(10 ** rng.uniform(2.5, 7.5, 40), jnp.float32)
    mh = jnp.asarray(rng.uniform(-3.0, 0.5, 40), jnp.float32)
    direct = jax.jit(jax.vmap(rosseland.integrate_continuum))(t, p, mh)
    fitted = rosseland_mean_continuum(t, p, mh)
    np.testing.assert_allclose(fitted, direct, rtol=0.06)


def test_hot_mean_is_hminus_and_cool_mean_is_molecular():
    assert float(rosseland_mean(6000.0, 1e5, 0.0)) == pytest.approx(
        float(rosseland_mean_continuum(6000.0, 1e5, 0.0)), rel=1e-3
    )
    assert float(rosseland_mean(3000.0, 1e5, 0.0)) == pytest.approx(
        float(rosseland_mean_freedman2014(3000.0, 1e5, 0.0)), rel=1e-3
    )
    # The two meet near 4000 K: their disagreement there is what the hand-over has to bridge.
    for pressure in (1e4, 1e5, 1e6):
        molecular = rosseland_mean_freedman2014(4000.0, pressure, 0.0)
        atomic = rosseland_mean_continuum(4000.0, pressure, 0.0)
        assert 0.6 < float(molecular / atomic) < 1.6


def test_rosseland_mean_rises_smoothly_through_the_handover():
    t = jnp.linspace(3200.0, 7000.0, 381)
    slope = jax.grad(lambda t, pressure: jnp.log(rosseland_mean(t, pressure, 0.0)))
    slopes = jax.jit(jax.vmap(slope, in_axes=(0, None)))
    for pressure in (1e4, 1e5, 1e6):
        value = np.asarray(slopes(t, pressure) * t)
        assert np.all(value > -1.0)
        assert np.all(value < 15.0)
        assert np.max(np.abs(np.diff(value))) < 0.3  # per 10 K


def test_mass_absorption_is_independent_of_the_scale_of_density():
    # At fixed composition the absorption per gram of H- grows as the electron pressure.
    wave = jnp.array([7000.0])
    densities = equilibrium(3500.0, 1e5, SOLAR)
    absorption, _ = continuum_opacity(wave, densities)
    kappa = float(absorption[0] / chemistry.mass_density(densities, SOLAR))
    assert 0.02 < kappa < 0.3
