"""Atomic lines: the table against known physics, Voigt against SciPy, opacity against sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import voigt_profile as scipy_voigt
from scipy.special import wofz

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.atoms import (
    CROSS_SECTION_UNIT_CM2,
    AtomicLines,
    atomic_cross_sections,
    load_atomic_lines,
    load_atomic_species,
    partition_function,
    perturber_densities,
    voigt_hjerting,
    voigt_profile,
)
from jaxmdwarf.wavelengths import vacuum_to_air

# Air wavelengths of well-known lines (NIST ASD), Angstrom.
KNOWN_AIR = {
    "Na I": [5889.951, 5895.924, 8183.255, 8194.82],
    "K I": [7664.90, 7698.96, 6911.08, 6938.76],
    "Rb I": [7800.26, 7947.60],
    "Cs I": [8521.13, 8943.47],
    "Li I": [6707.76],
    "Ca I": [6102.72, 6122.22, 6162.17, 6439.08, 6462.57, 6493.78, 6572.78, 6717.69, 7148.15],
    "Ca II": [8498.02, 8542.09, 8662.14],
    "Ti I": [8377.86, 8382.54, 8412.36, 8426.50, 8434.96, 8435.65, 8675.37, 8682.98],
    "Fe I": [8327.06, 8387.77, 8468.41, 8514.07, 8661.90, 8688.63, 8824.22, 6677.99],
    "V I": [6090.21, 6243.10],
    "Cr I": [7355.9, 7400.2, 7462.3],
    "Mn I": [6013.5, 6016.6, 6021.8],
    "Ni I": [7714.3, 7788.9],
    "Mg I": [8806.76, 8736.02],
    "Ba II": [5853.67, 6141.71, 6496.90],
}


def find(lines: AtomicLines, species: str, air_aa: float) -> int:
    """Index of the strongest line of a species within 0.1 A of an air wavelength."""
    air = vacuum_to_air(lines.wave_aa)
    near = (lines.species == species) & (np.abs(air - air_aa) < 0.1)
    assert near.any(), f"{species} {air_aa} is missing"
    return int(np.where(near, lines.log_gf, -99.0).argmax())


def only(index) -> AtomicLines:
    return load_atomic_lines().take(np.atleast_1d(index))


def log_grid(start: float, stop: float, step: float = 2e-5) -> np.ndarray:
    return start * np.exp(step * np.arange(int(np.log(stop / start) / step) + 1))


class TestTable:
    def test_known_lines_are_there_at_their_air_wavelengths(self):
        lines = load_atomic_lines()
        for species, waves in KNOWN_AIR.items():
            for wave in waves:
                find(lines, species, wave)

    def test_size_and_sorting(self):
        lines = load_atomic_lines()
        assert 250 <= lines.wave_aa.size <= 1000
        assert (np.diff(lines.wave_aa) >= 0).all()
        assert all("Heiter" in r for r in lines.reference)

    def test_arrays_cannot_be_overwritten(self):
        with pytest.raises(ValueError, match="read-only"):
            load_atomic_lines().log_gf[0] = 0.0

    @pytest.mark.parametrize(
        ("species", "strong", "weak", "ratio"),
        [
            ("Na I", 5889.951, 5895.924, 2.0),
            ("K I", 7664.90, 7698.96, 2.0),
            ("Na I", 8194.824, 8183.255, 9 / 5),
            ("Rb I", 7800.26, 7947.60, 2.0),
            ("Cs I", 8521.13, 8943.47, 2.0),
            ("Ca II", 8542.09, 8498.02, 9.0),
            ("Ca II", 8662.14, 8498.02, 5.0),
        ],
    )
    def test_multiplet_ratios_follow_ls_coupling(self, species, strong, weak, ratio):
        lines = load_atomic_lines()
        gf = 10.0**lines.log_gf
        assert gf[find(lines, species, strong)] / gf[find(lines, species, weak)] == pytest.approx(
            ratio, rel=0.05
        )

    def test_alkali_resonance_f_values(self):
        # The two resonance lines carry nearly all of the valence electron's oscillator strength.
        lines = load_atomic_lines()
        for species, air in {"Na I": (5889.951, 5895.924), "K I": (7664.90, 7698.96)}.items():
            f = sum(10.0 ** lines.log_gf[find(lines, species, w)] for w in air) / 2.0
            assert 0.95 < f < 1.06

    def test_natural_width_of_resonance_line_is_its_own_decay_rate(self):
        # A two-level atom decays only by this line: gamma = A_ul = 6.67e15 gf / (g_u lambda^2).
        lines = load_atomic_lines()
        for species, air in [("Na I", 5889.951), ("K I", 7664.90), ("Rb I", 7800.26)]:
            i = find(lines, species, air)
            a_ul = 6.6702e15 * 10.0 ** lines.log_gf[i] / (4.0 * lines.wave_aa[i] ** 2)
            assert 10.0 ** lines.gamma_rad[i] == pytest.approx(a_ul, rel=0.15)

    def test_abo_width_of_sodium_d(self):
        # sigma = 407 a.u., alpha = 0.273 (Barklem et al. 1998), at 10^4 K: log10 = -7.53 (VALD).
        lines = load_atomic_lines()
        i = find(lines, "Na I", 5889.951)
        assert lines.gamma_vdw[i] == pytest.approx(-7.53, abs=0.01)
        assert lines.vdw_alpha[i] == pytest.approx(0.273)


class TestPartitionFunction:
    # Sums over NIST levels: g0 alone, or with the few levels within 1 eV.
    @pytest.mark.parametrize(
        ("species", "levels"),
        [
            ("Na I", [(2, 0.0), (6, 2.103), (2, 3.191), (10, 3.617)]),
            ("K I", [(2, 0.0), (2, 1.610), (4, 1.617), (2, 2.607), (10, 2.670)]),
            ("Ca I", [(1, 0.0), (1, 1.879), (3, 1.886), (5, 1.899), (15, 2.523), (5, 2.709)]),
            ("Ca II", [(2, 0.0), (4, 1.692), (6, 1.700)]),
            ("Al I", [(2, 0.0), (4, 0.01389)]),
            ("Ba II", [(2, 0.0), (4, 0.604), (6, 0.704)]),
        ],
    )
    @pytest.mark.parametrize("temperature", [2500.0, 3500.0])
    def test_agrees_with_a_sum_over_low_levels(self, species, levels, temperature):
        direct = sum(g * np.exp(-e / (8.617333e-5 * temperature)) for g, e in levels)
        assert float(partition_function(species, temperature)) == pytest.approx(direct, rel=0.03)

    def test_iron_group_grows_with_temperature_and_unknown_species_is_named(self):
        for species in ("Fe I", "Ti I", "V I"):
            assert (np.diff(partition_function(species, np.linspace(1500, 6000, 30))) > 0).all()
        with pytest.raises(UsageError, match="Xx I"):
            partition_function("Xx I", 3000.0)

    def test_every_element_has_both_stages(self):
        table = load_atomic_species()
        for name in table:
            element = name.split()[0]
            assert {f"{element} I", f"{element} II"} <= set(table)


class TestVoigt:
    def test_against_the_faddeeva_function_in_float32(self):
        v = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 400)]).astype(np.float32)
        a = np.concatenate([[0.0], np.geomspace(1e-6, 1e3, 60)]).astype(np.float32)
        v, a = np.meshgrid(v, a)
        exact = wofz(v.astype(float) + 1j * a.astype(float)).real
        got = np.asarray(voigt_hjerting(jnp.asarray(v), jnp.asarray(a)), dtype=float)
        counts = exact > 1e-30
        np.testing.assert_allclose(got[counts], exact[counts], rtol=2e-5)
        assert (got >= 0).all()

    def test_profile_against_scipy(self):
        x = np.linspace(-30, 30, 601)
        for sigma, hwhm in [(1.0, 0.01), (0.3, 2.0), (2.0, 2.0)]:
            got = voigt_profile(
                jnp.asarray(x, jnp.float32),
                jnp.full(x.shape, np.sqrt(2) * sigma, jnp.float32),
                jnp.full(x.shape, hwhm, jnp.float32),
            )
            np.testing.assert_allclose(got, scipy_voigt(x, sigma, hwhm), rtol=1e-4)

    def test_gradients_are_finite_and_right(self):
        # dH/dv = -2 Re(z w), dH/da = 2 Im(z w) - 2/sqrt(pi)
        v = np.array([0.0, 0.3, 1.0, 3.0, 5.4, 5.6, 50.0, 1e4])
        slopes = jax.jit(jax.vmap(jax.grad(voigt_hjerting, argnums=(0, 1))))
        for a in (1e-4, 0.1, 1.0, 10.0):
            arguments = jnp.asarray(v, jnp.float32), jnp.full(v.shape, a, jnp.float32)
            got_v, got_a = slopes(*arguments)
            z = v + 1j * a
            zw = z * wofz(z)
            np.testing.assert_allclose(got_v, -2 * zw.real, rtol=1e-3, atol=1e-6)
            np.testing.assert_allclose(
                got_a, 2 * zw.imag - 2 / np.sqrt(np.pi), rtol=1e-3, atol=1e-6
            )

    def test_gradient_at_zero_damping_is_finite(self):
        slopes = jax.jit(jax.grad(voigt_hjerting, argnums=(0, 1)))
        gradient = np.asarray(slopes(jnp.float32(0.7), jnp.float32(0.0)))
        assert np.isfinite(gradient).all()


class TestPerturbers:
    def test_pressure_and_composition_close(self):
        t, log_p = np.meshgrid([1500.0, 2500.0, 3500.0, 5000.0], [2.0, 5.0, 7.0])
        gas = perturber_densities(t, log_p)
        total = gas.hydrogen + gas.hydrogen_molecule + gas.helium
        np.testing.assert_allclose(total * 1.380649e-16 * t, 10.0**log_p, rtol=1e-10)
        np.testing.assert_allclose(
            gas.helium / (gas.hydrogen + 2 * gas.hydrogen_molecule), 10**-1.086, rtol=1e-3
        )

    def test_hydrogen_is_molecular_when_cool_and_atomic_when_hot(self):
        gas = perturber_densities(np.array([2000.0, 5000.0]), np.array([5.0, 5.0]))
        assert gas.hydrogen_molecule[0] > 10 * gas.hydrogen[0]
        assert gas.hydrogen[1] > 10 * gas.hydrogen_molecule[1]

    def test_few_electrons(self):
        gas = perturber_densities(np.array([2500.0, 4000.0]), np.array([5.5]))
        fraction = gas.electron / (gas.hydrogen + gas.hydrogen_molecule)
        assert (fraction > 1e-8).all()
        assert (fraction < 2e-4).all()


class TestCrossSections:
    def integral(self, i, temperature):
        """Integral over frequency of the cross-section, cm^2 Hz, from the textbook formula."""
        lines = load_atomic_lines()
        kt = 8.617333e-5 * temperature
        population = np.exp(-lines.e_lower_ev[i] / kt)
        population /= float(partition_function(str(lines.species[i]), temperature))
        stimulated = 1 - np.exp(-12398.42 / lines.wave_aa[i] / kt)
        return 0.02654 * 10.0 ** lines.log_gf[i] * population * stimulated

    @pytest.mark.parametrize(("species", "air"), [("Cs I", 8521.13), ("Fe I", 8688.63)])
    @pytest.mark.parametrize("shift_pixels", [0.0, 0.25, 0.5])
    def test_equivalent_width_is_conserved_when_the_core_is_unresolved(
        self, species, air, shift_pixels
    ):
        # 2e-5 is 6 km/s; caesium's thermal width at 1500 K without turbulence is 0.4 km/s.
        i = find(load_atomic_lines(), species, air)
        wave = log_grid(air - 40.0, air + 40.0)
        sigma = atomic_cross_sections(
            only(i),
            wave,
            np.array([1500.0]),
            np.array([1.0]),
            microturbulence_kms=0.0,
            wave_shift_aa=shift_pixels * 2e-5 * air,
        )[species][0, 0]
        width_hz = 2.99792458e18 / wave * 2e-5
        total = float((sigma * width_hz).sum()) * CROSS_SECTION_UNIT_CM2
        assert total == pytest.approx(self.integral(i, 1500.0), rel=3e-3)

    def test_equivalent_width_is_conserved_with_broad_wings(self):
        i = find(load_atomic_lines(), "K I", 7664.90)
        wave = log_grid(7300.0, 8050.0)
        sigma = atomic_cross_sections(
            only(i), wave, np.array([3000.0]), np.array([6.0]), cutoff_aa=300.0
        )["K I"][0, 0]
        total = float((sigma * 2.99792458e18 / wave * 2e-5).sum()) * CROSS_SECTION_UNIT_CM2
        assert total == pytest.approx(self.integral(i, 3000.0), rel=0.01)

    def test_coarse_grid_is_the_mean_of_a_fine_one(self):
        i = find(load_atomic_lines(), "Ti I", 8435.65)
        fine = log_grid(8420.0, 8460.0, 4e-6)
        fine = fine[: fine.size // 5 * 5]
        arguments = np.array([3200.0]), np.array([5.5])
        on_fine = atomic_cross_sections(only(i), fine, *arguments)["Ti I"][0, 0]
        on_coarse = atomic_cross_sections(only(i), fine[2::5], *arguments)["Ti I"][0, 0]
        mean = on_fine.reshape(-1, 5).mean(axis=1)
        peak = on_coarse.max()
        np.testing.assert_allclose(on_coarse, mean, rtol=5e-3, atol=1e-5 * peak)

    def test_wings_grow_with_pressure_and_follow_the_lorentzian(self):
        i = find(load_atomic_lines(), "K I", 7664.90)
        lines = load_atomic_lines()
        wave = log_grid(7600.0, 7740.0)
        sigma = atomic_cross_sections(only(i), wave, np.array([3000.0]), np.array([4.0, 5.0, 6.0]))[
            "K I"
        ][0]
        at = int(np.argmin(np.abs(wave - lines.wave_aa[i] - 20.0)))
        ratio = sigma[1:, at] / sigma[:-1, at]
        assert (ratio > 7).all()
        assert (ratio < 10.5).all()
        # A tenth of the distance, a hundred times the opacity.
        near = int(np.argmin(np.abs(wave - lines.wave_aa[i] - 2.0)))
        assert sigma[2, near] / sigma[2, at] == pytest.approx(100.0, rel=0.03)

    def test_excitation_and_abundance_per_atom(self):
        # Hotter gas populates 2.1 eV (Na 8195) but empties nothing from the ground state (Na D).
        lines = load_atomic_lines()
        wave = log_grid(8188.0, 8206.0)
        sub = only(find(lines, "Na I", 8194.824))
        sigma = atomic_cross_sections(sub, wave, np.array([2500.0, 3500.0]), np.array([5.0]))
        ratio = sigma["Na I"][1, 0].sum() / sigma["Na I"][0, 0].sum()
        expected = np.exp(-2.104 / 8.617333e-5 * (1 / 3500 - 1 / 2500))
        assert ratio == pytest.approx(expected, rel=0.05)

    def test_windows_do_not_depend_on_temperature_or_pressure(self):
        sigma = atomic_cross_sections(
            load_atomic_lines(),
            log_grid(8360.0, 8440.0),
            np.array([2000.0, 4500.0]),
            np.array([2.0, 7.0]),
            select=["Ti I"],
        )["Ti I"]
        assert sigma.dtype == np.float32
        assert ((sigma > 0) == (sigma[:1, :1] > 0)).all()
        assert 0 < (sigma[0, 0] == 0).sum() < sigma.shape[-1]

    def test_scales_act_on_their_own_quantity(self):
        i = find(load_atomic_lines(), "Fe I", 8688.63)
        wave = log_grid(8660.0, 8720.0)
        grid = np.array([3200.0]), np.array([6.0])
        plain = atomic_cross_sections(only(i), wave, *grid)["Fe I"][0, 0]
        strong = atomic_cross_sections(only(i), wave, *grid, strength_scale=np.array([2.0]))
        np.testing.assert_allclose(strong["Fe I"][0, 0], 2 * plain, rtol=1e-5)
        shifted = atomic_cross_sections(only(i), wave, *grid, wave_shift_aa=1.0)["Fe I"][0, 0]
        assert (shifted.argmax() - plain.argmax()) * 2e-5 * 8690 == pytest.approx(1.0, abs=0.18)
        damped = atomic_cross_sections(only(i), wave, *grid, damping_scale=2.0)["Fe I"][0, 0]
        wing = plain.argmax() + 8
        assert damped[wing] / plain[wing] == pytest.approx(2.0, rel=0.02)
        assert damped.max() < plain.max()

    def test_lines_beyond_the_edges_reach_in_and_species_split(self):
        lines = load_atomic_lines()
        inside = log_grid(7680.0, 7695.0)
        whole = log_grid(7600.0, 7760.0)
        grid = np.array([3000.0]), np.array([5.0])
        small = atomic_cross_sections(lines, inside, *grid, select=["K I", "Rb I"])
        large = atomic_cross_sections(lines, whole, *grid, select=["K I"])["K I"][0, 0]
        assert set(small) == {"K I", "Rb I"}
        expected = np.exp(np.interp(np.log(inside), np.log(whole), np.log(large)))
        np.testing.assert_allclose(small["K I"][0, 0], expected, rtol=5e-3)

    def test_usage_errors_say_what_is_wrong(self):
        lines = load_atomic_lines()
        grid = np.array([3000.0]), np.array([5.0])
        with pytest.raises(UsageError, match="equidistant in ln"):
            atomic_cross_sections(lines, np.linspace(6000, 7000, 1001), *grid)
        with pytest.raises(UsageError, match="no lines of He I"):
            atomic_cross_sections(lines, log_grid(6000, 6010), *grid, select=["He I"])
        with pytest.raises(UsageError, match="damping_scale"):
            atomic_cross_sections(lines, log_grid(6000, 6010), *grid, damping_scale=np.ones(3))
