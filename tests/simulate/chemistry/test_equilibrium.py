"""Number densities obey conservation laws, mass action and the chemistry of cool dwarfs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.simulate.abundances import number_fractions, solar_mix
from jaxmdwarf.simulate.chemistry import equilibrium as chemistry
from jaxmdwarf.simulate.chemistry.equilibrium import (
    electron_pressure,
    mass_density,
    mean_molecular_weight,
)
from jaxmdwarf.simulate.chemistry.network import (
    list_particles,
    log_equilibrium_constant,
    species_names,
)
from jaxmdwarf.simulate.constants import K_BOLTZMANN
from jaxmdwarf.simulate.continuum import continuum_opacity
from jaxmdwarf.simulate.rosseland import rosseland_mean

# One program for all gases of one shape, not one for each operation.
equilibrium = jax.jit(chemistry.equilibrium)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def particles():
    return {p.name: p for p in list_particles()[0]}


def _grid():
    t, p, m, a = np.meshgrid(
        [1000.0, 1800.0, 2600.0, 3300.0, 4100.0, 5500.0, 9000.0],
        [1e0, 1e3, 1e5, 1e8],
        [-4.0, -1.0, 0.0, 1.0],
        [0.0, 0.4],
        indexing="ij",
    )
    return t.ravel(), p.ravel(), number_fractions(m.ravel(), a.ravel())


def _worst_imbalance(temperature, pressure, fractions):
    densities = equilibrium(temperature, pressure, fractions)
    log_nuclei = np.asarray(densities.log_nuclei, float)
    per_nucleus = np.exp(np.asarray(densities.log_n, float) - log_nuclei[:, None])
    n = dict(zip(species_names(), per_nucleus.T, strict=True))
    of_name = particles()
    worst = []
    for i, element in enumerate(solar_mix().elements):
        total = sum(n[s] * p.elements.get(element, 0) for s, p in of_name.items())
        worst.append(np.max(np.abs(total / np.asarray(fractions[:, i], float) - 1.0)))
    charge = sum(n[s] * p.charge for s, p in of_name.items())
    worst.append(np.max(np.abs(charge / n["e-"] - 1.0)))
    log_total = np.log(pressure) - np.log(K_BOLTZMANN * temperature)
    worst.append(np.max(np.abs(per_nucleus.sum(-1) * np.exp(log_nuclei - log_total) - 1.0)))
    return max(worst)


def test_nuclei_charge_and_pressure_balance_in_float64(x64):
    t, p, fractions = _grid()
    assert fractions.dtype == jnp.float64
    assert _worst_imbalance(t, p, fractions) < 1e-9


def test_nuclei_charge_and_pressure_balance_in_float32():
    t, p, fractions = _grid()
    assert fractions.dtype == jnp.float32
    assert _worst_imbalance(t.astype(np.float32), p.astype(np.float32), fractions) < 1e-4


def test_mass_action_holds_between_species():
    n = equilibrium(3100.0, 2e5, number_fractions(0.0, 0.0))
    got = n["TiO2"] - n["Ti"] - 2.0 * n["O"]
    assert float(got) == pytest.approx(float(log_equilibrium_constant("TiO2", 3100.0)), abs=1e-4)
    got = n["Ca+"] + n["e-"] - n["Ca"]
    assert float(got) == pytest.approx(float(log_equilibrium_constant("Ca+", 3100.0)), abs=1e-4)


def _fractions_of(densities, element, species):
    eps = dict(zip(solar_mix().elements, np.asarray(number_fractions(0.0, 0.0)), strict=True))
    nuclei = float(densities.log_nuclei) + np.log(eps[element])
    return {s: np.exp(float(densities[s]) - nuclei) for s in species}


def test_composition_of_a_cool_dwarf_photosphere():
    fractions = number_fractions(0.0, 0.0)
    n = equilibrium(3000.0, 1e5, fractions)
    assert float(n["H2"] - n["H"]) > 0.0
    carbon = _fractions_of(n, "C", ["CO"])
    oxygen = _fractions_of(n, "O", ["CO", "H2O", "OH", "O", "SiO"])
    silicon = _fractions_of(n, "Si", ["SiO"])
    titanium = _fractions_of(n, "Ti", ["Ti", "TiO", "TiO2"])
    assert carbon["CO"] > 0.995
    assert silicon["SiO"] > 0.9
    assert oxygen["H2O"] > oxygen["OH"] > oxygen["O"] > 0.01
    assert sum(oxygen.values()) == pytest.approx(1.0, abs=0.01)
    # Titanium is shared evenly at 3000 K and mostly in TiO at 2500 K.
    assert 0.2 < titanium["TiO"] < 0.6
    cooler = _fractions_of(equilibrium(2500.0, 1e5, fractions), "Ti", ["TiO"])
    assert cooler["TiO"] > 0.6
    # Water and H2 rule below, atoms above.
    hot = equilibrium(4500.0, 1e5, fractions)
    assert float(hot["H"] - hot["H2"]) > 3.0
    assert _fractions_of(hot, "Ti", ["Ti+"])["Ti+"] > 0.8


def test_electrons_come_from_alkalis_then_calcium_aluminium_magnesium():
    fractions = number_fractions(0.0, 0.0)
    cool = equilibrium(3000.0, 1e5, fractions)
    share = {
        s: float(jnp.exp(cool[s] - cool["e-"])) for s in ("K+", "Na+", "Ca+", "Al+", "Mg+", "H+")
    }
    assert share["Na+"] > share["Ca+"] > share["K+"] > share["Al+"] > share["Mg+"] > share["H+"]
    assert sum(share.values()) == pytest.approx(1.0, abs=0.02)
    warm = equilibrium(4000.0, 1e5, fractions)
    assert float(warm["Mg+"]) > float(warm["Na+"])
    assert 0.1 < float(electron_pressure(cool)) < 0.5


def test_cah_over_tio_rises_with_pressure_and_with_lower_metallicity():
    def ratio(pressure, mh):
        n = equilibrium(3200.0, pressure, number_fractions(mh, 0.0))
        return float(n["CaH"] - n["TiO"])

    assert ratio(1e6, 0.0) > ratio(1e5, 0.0) + 1.0
    assert ratio(1e5, -2.0) > ratio(1e5, -1.0) + 0.5 > ratio(1e5, 0.0) + 1.0


def test_mean_molecular_weight_and_density_follow_the_gas_law():
    fractions = number_fractions(0.0, 0.0)
    molecular = equilibrium(1500.0, 1e6, fractions)
    atomic = equilibrium(5000.0, 1e3, fractions)
    assert float(mean_molecular_weight(molecular, fractions)) == pytest.approx(2.35, abs=0.03)
    assert float(mean_molecular_weight(atomic, fractions)) == pytest.approx(1.27, abs=0.02)
    for n in (molecular, atomic):
        gas = 8.314463e7 * float(n.temperature_k) / float(mean_molecular_weight(n, fractions))
        assert float(mass_density(n, fractions)) == pytest.approx(
            float(n.pressure_dyn) / gas, rel=1e-4
        )


def test_gradients_agree_with_finite_differences(x64):
    names = ("TiO", "CaH", "e-", "H2O", "VO", "Ca+", "Al", "FeH", "H-", "SiO")

    def log_n(v):
        n = equilibrium(v[0], jnp.exp(v[1]), number_fractions(v[2], v[3]))
        return jnp.stack([n[name] for name in names])

    function, jacobian = jax.jit(log_n), jax.jit(jax.jacfwd(log_n))
    for point in ([3000.0, 11.5, 0.0, 0.0], [3700.0, 13.0, -1.3, 0.3], [2300.0, 9.0, 0.4, -0.1]):
        v = jnp.asarray(point)
        forward = np.asarray(jacobian(v))
        for i, h in enumerate((0.1, 1e-4, 1e-4, 1e-4)):
            step = np.zeros(4)
            step[i] = h
            numeric = (np.asarray(function(v + step)) - np.asarray(function(v - step))) / (2 * h)
            np.testing.assert_allclose(forward[:, i], numeric, rtol=1e-5, atol=1e-8)
    reverse = jax.jit(jax.grad(lambda v: jnp.sum(log_n(v))))(v)
    np.testing.assert_allclose(reverse, forward.sum(axis=0), rtol=1e-9)


def test_gradients_are_finite_in_float32_at_the_corners():
    def total(t, log_p, mh):
        n = equilibrium(t, jnp.exp(log_p), number_fractions(mh, 0.0))
        return jnp.sum(n.log_n)

    gradient = jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1, 2))))
    t, p, m = np.meshgrid([700.0, 1000.0, 3000.0, 9000.0], [0.0, 11.0, 18.0], [-4.0, 1.0])
    values = gradient(*(jnp.asarray(x.ravel(), jnp.float32) for x in (t, p, m)))
    assert all(bool(jnp.all(jnp.isfinite(v))) for v in values)


def test_precision_follows_the_inputs(x64):
    assert equilibrium(3000.0, 1e5, number_fractions(0.0, 0.0)).log_n.dtype == jnp.float64
    single = number_fractions(jnp.float32(0.0), jnp.float32(0.0))
    assert single.dtype == jnp.float32
    densities = equilibrium(jnp.float32(3000.0), 1e5, single)
    assert densities.log_n.dtype == densities.log_nuclei.dtype == jnp.float32
    wave = jnp.linspace(6000.0, 9000.0, 5, dtype=jnp.float32)
    opacity = jax.eval_shape(continuum_opacity, wave, densities)
    assert all(c.dtype == jnp.float32 for c in opacity)
    assert jax.eval_shape(rosseland_mean, single[0], 1e5, single[1]).dtype == jnp.float32


def test_arrays_equal_vmapped_scalars():
    fractions = number_fractions(jnp.array([-1.0, 0.0]), 0.0)
    t = jnp.array([[2500.0, 3000.0, 3500.0], [2600.0, 3100.0, 4600.0]])
    p = jnp.array([1e4, 1e5, 1e6])
    batched = equilibrium(t, p, fractions[:, None, :])
    by_star = jax.vmap(lambda t, eps: jax.vmap(lambda t, p: equilibrium(t, p, eps))(t, p))
    looped = jax.jit(by_star)(t, fractions)
    assert batched.log_n.shape == (2, 3, len(species_names()))
    np.testing.assert_allclose(batched.log_n, looped.log_n, rtol=1e-5, atol=2e-4)
