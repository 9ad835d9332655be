"""Cross-sections of atoms against sums over their lines."""

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.atoms.crosssection import (
    CROSS_SECTION_UNIT_CM2,
    _broadening_per_h,
    atomic_cross_sections,
    perturber_densities,
)
from jaxmdwarf.simulate.atoms.lines import (
    AtomicLines,
    load_atomic_lines,
    partition_function,
)
from jaxmdwarf.wavelengths import vacuum_to_air


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

    def test_wings_of_potassium_have_the_opacity_of_the_impact_approximation(self):
        """pi e^2 / (m c) f n / n_K gamma / (4 pi^2 dnu^2); gamma goes as C6^0.4 v^(1 - alpha)."""
        lines = load_atomic_lines()
        i = find(lines, "K I", 7664.90)
        temperature, log_p = 3000.0, 5.5
        wave = log_grid(7600.0, 7740.0)
        sigma = atomic_cross_sections(
            only(i), wave, np.array([temperature]), np.array([log_p]), cutoff_aa=300.0
        )["K I"][0, 0]
        gas = perturber_densities(np.array(temperature), np.array(log_p))
        gamma, slower = 0.0, np.sqrt(temperature / 1e4) ** (1 - lines.vdw_alpha[i])
        for density, polarisability, mass in (
            (gas.hydrogen, 0.6668, 1.008),
            (gas.hydrogen_molecule, 0.8045, 2.016),
            (gas.helium, 0.2051, 4.0026),
        ):
            lighter = (1 / mass + 1 / 39.0983) / (1 / 1.008 + 1 / 39.0983)  # 1 / reduced mass
            scale = (polarisability / 0.6668) ** 0.4 * lighter**0.3
            gamma += density * 10.0 ** lines.gamma_vdw[i] * scale * slower
        at = int(np.argmin(np.abs(wave - lines.wave_aa[i] - 20.0)))
        away_hz = 2.99792458e18 * (1 / lines.wave_aa[i] - 1 / wave[at])
        expected = self.integral(i, temperature) * gamma / (4 * np.pi**2 * away_hz**2)
        assert sigma[at] * CROSS_SECTION_UNIT_CM2 / expected == pytest.approx(1.0, rel=0.02)

    def test_collisions_broaden_more_where_atoms_are_faster(self):
        lines = only(find(load_atomic_lines(), "K I", 7664.90))
        lines = lines._replace(vdw_alpha=np.array([0.4]))
        cool, hot = _broadening_per_h(lines, np.array([39.1]), np.array([2000.0, 4500.0]), "H")[0]
        assert hot / cool == pytest.approx((4500 / 2000) ** 0.3)

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

    def test_grids_are_logarithmic_to_a_twentieth_of_a_pixel(self):
        lines = load_atomic_lines()
        grid = np.array([3000.0]), np.array([5.0])
        wave = log_grid(7600.0, 7700.0)
        step = np.log(wave[1] / wave[0])
        for share, fits in ((0.04, True), (0.06, False)):
            bent = wave.copy()
            bent[wave.size // 2] *= np.exp(share * step)
            if fits:
                atomic_cross_sections(lines, bent, *grid, select=["K I"])
            else:
                with pytest.raises(UsageError, match="twentieth of a pixel"):
                    atomic_cross_sections(lines, bent, *grid, select=["K I"])
