"""Molecular line lists: band heads, rotational strengths, level formulae, isotopes, sums."""

import csv
from importlib import resources

import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.molecules import (
    band_lines,
    head_wavelengths,
    level_constants,
    list_species,
    load_species,
    partition_function,
)
from jaxmdwarf.simulate.molecules.franck_condon import (
    HBAR2_2MU,
    PotentialCurve,
    curve_from_constants,
    moment_matrix,
    radial_grid,
    solve_vibration,
)
from jaxmdwarf.simulate.molecules.hamiltonian import (
    UNPHYSICAL_CM,
    Basis,
    LevelConstants,
    dipole_amplitudes,
    solve_levels,
)


def constants(n_sigma, **values):
    names = ["t", "b", "d", "h", "a", "lambda_ss", "gamma", "o_ld", "p_ld", "q_ld"]
    base = dict.fromkeys(names, 0.0) | values
    arrays = {key: np.array([value], dtype=float) for key, value in base.items()}
    return LevelConstants(**arrays, shift=np.zeros((1, n_sigma)))


def published_heads(file_name):
    path = resources.files("jaxmdwarf.simulate.molecules") / "data" / file_name
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


TIO_HEADS = [row for row in published_heads("heads.csv") if row["status"] != "doubtful"]


@pytest.mark.parametrize(
    "row",
    TIO_HEADS,
    ids=lambda row: "{system}({v_upper},{v_lower}){head}".format(**row),
)
def test_tio_heads_lie_where_the_laboratory_saw_them(row):
    heads = head_wavelengths("TiO", row["system"], int(row["v_upper"]), int(row["v_lower"]))
    same = [h.wave_air_aa for h in heads if h.branch[:3] == row["head"]]
    assert min(abs(wave - float(row["wavelength_air_aa"])) for wave in same) < 1.0


OTHER_HEADS = [
    row
    for row in published_heads("heads_other.csv")
    if row["status"] == "identified" and len(row["head"]) == 4
]


@pytest.mark.parametrize(
    "row", OTHER_HEADS, ids=lambda row: "{species}({v_upper},{v_lower}){head}".format(**row)
)
def test_other_heads_lie_where_the_laboratory_saw_them(row):
    band = row["system"], int(row["v_upper"]), int(row["v_lower"])
    heads = head_wavelengths(row["species"], *band)
    wave = next(h.wave_air_aa for h in heads if h.branch == row["head"])
    # The list gives whole Angstrom.
    assert abs(wave - float(row["wavelength_air_aa"])) < 1.5


@pytest.mark.parametrize(
    ("upper", "lower"),
    [
        (Basis(3, 2), Basis(2, 2)),  # TiO gamma
        (Basis(1, 2), Basis(2, 2)),  # TiO gamma', epsilon
        (Basis(2, 2), Basis(2, 2)),  # TiO alpha
        (Basis(1, 0), Basis(0, 0)),  # TiO phi
        (Basis(1, 1), Basis(0, 1)),  # CaH A-X, MgH A-X
        (Basis(0, 1), Basis(0, 1)),  # CaH B-X
        (Basis(1, 3), Basis(0, 3, True)),  # VO B-X
        (Basis(0, 3, True), Basis(0, 3, True)),  # VO C-X
        (Basis(2, 3), Basis(2, 3)),  # FeH F-X
    ],
)
def test_rotational_strengths_of_an_upper_level_sum_to_its_weight(upper, lower):
    half = upper.two_s % 2 / 2
    j = np.arange(12) + half
    cu = constants(upper.two_s + 1, b=0.5, d=1e-6, a=30.0, lambda_ss=2.0, gamma=0.05, p_ld=0.1)
    cl = constants(lower.two_s + 1, b=0.55, d=1e-6, a=25.0, lambda_ss=1.0, gamma=0.02, q_ld=0.01)
    up, lo = solve_levels(upper, cu, j), solve_levels(lower, cl, j)
    middle = slice(1, len(j) - 1)
    for parity in (0, 1):
        energy, vector = up[parity]
        total = np.zeros(energy[0, middle].shape)
        for delta_j in (1, 0, -1):
            _, other = lo[parity if delta_j else 1 - parity]
            amplitude = dipole_amplitudes(upper, lower, j[middle], delta_j)
            rows = np.arange(1, len(j) - 1) - delta_j
            factor = np.einsum("jai,jab,jbk->jik", vector[0, middle], amplitude, other[0, rows])
            total += (factor**2).sum(axis=-1)
        exists = energy[0, middle] < UNPHYSICAL_CM / 2
        weight = np.broadcast_to((2 * j[middle] + 1)[:, None], total.shape)
        np.testing.assert_allclose(total[exists], weight[exists], rtol=1e-10)


def test_singlet_pi_sigma_factors_are_those_of_hoenl_and_london():
    j = np.arange(2.0, 9.0)
    upper, lower = Basis(1, 0), Basis(0, 0)
    e_up, f_up = upper.parity_vectors()
    r = (e_up[:, 0] @ dipole_amplitudes(upper, lower, j, 1)[:, :, 0].T) ** 2
    p = (e_up[:, 0] @ dipole_amplitudes(upper, lower, j, -1)[:, :, 0].T) ** 2
    q = (f_up[:, 0] @ dipole_amplitudes(upper, lower, j, 0)[:, :, 0].T) ** 2
    np.testing.assert_allclose(r, j + 1)
    np.testing.assert_allclose(p, j)
    np.testing.assert_allclose(q, 2 * j + 1)


def test_doublet_sigma_levels_follow_the_spin_rotation_formula():
    b, gamma = 4.2, 0.04
    j = np.arange(8) + 0.5
    e, f = solve_levels(Basis(0, 1), constants(2, b=b, gamma=gamma), j)
    n_e, n_f = j - 0.5, j + 0.5
    np.testing.assert_allclose(e[0][0, :, 0], b * n_e * (n_e + 1) + gamma / 2 * n_e, atol=1e-9)
    np.testing.assert_allclose(f[0][0, :, 0], b * n_f * (n_f + 1) - gamma / 2 * (n_f + 1))


@pytest.mark.parametrize("two_s", [1, 2, 3])
def test_without_spin_orbit_coupling_levels_depend_on_n_alone(two_s):
    lam = 2
    j = np.arange(6, 12) + two_s % 2 / 2
    energy, _ = solve_levels(Basis(lam, two_s), constants(two_s + 1, b=1.5, d=1e-5), j)[0]
    n = j[:, None] + np.arange(-two_s, two_s + 1, 2) / 2
    np.testing.assert_allclose(energy[0], 1.5 * n * (n + 1) - 1e-5 * (n * (n + 1)) ** 2)


def test_lambda_doubling_of_a_doublet_pi_has_brown_and_merers_sign():
    p = -0.6
    j = np.array([0.5, 1.5])
    e, f = solve_levels(Basis(1, 1), constants(2, b=0.5, a=1000.0, p_ld=p), j)
    np.testing.assert_allclose(f[0][0, :, 0] - e[0][0, :, 0], p * (j + 0.5), rtol=2e-3)


def test_sigma_minus_levels_have_the_other_reflection_symmetry():
    j = np.arange(2, 8) + 0.5
    spin = constants(4, b=0.5)
    n_plus = [solve_levels(Basis(0, 3), spin, j)[k][0][0] for k in (0, 1)]
    n_minus = [solve_levels(Basis(0, 3, True), spin, j)[k][0][0] for k in (0, 1)]
    np.testing.assert_allclose(n_plus[0], n_minus[1])
    np.testing.assert_allclose(n_plus[1], n_minus[0])
    # Sigma+, S = 3/2: the e levels are N = J - 1/2 and J + 3/2.
    n = j[:, None] + np.array([-0.5, 1.5])
    np.testing.assert_allclose(n_plus[0], 0.5 * n * (n + 1))


def test_sigma_sigma_lines_change_n_by_one():
    basis = Basis(0, 1)
    j = np.arange(1, 8) + 0.5
    # e has N = J - 1/2, f has N = J + 1/2: Q lines from e to f keep N + 1, R lines add one.
    for delta_j, parity, change in ((1, 0, 1), (-1, 0, -1), (1, 1, 1), (-1, 1, -1)):
        n_up = j + (-0.5 if parity == 0 else 0.5)
        n_low = j - delta_j + (-0.5 if parity == 0 else 0.5)
        assert np.all(n_up - n_low == change)
    e, f = basis.parity_vectors()
    q_fe = f[:, 0] @ dipole_amplitudes(basis, basis, j, 0) @ e[:, 0]
    r_ee = e[:, 0] @ dipole_amplitudes(basis, basis, j, 1) @ e[:, 0]
    # At large N the Q satellite fades against the main branch.
    assert np.all(np.diff(q_fe**2 / r_ee**2) < 0)


def test_morse_curve_has_morses_levels_and_complete_overlaps():
    mu, de, beta, re = 12.0, 45_000.0, 1.8, 1.62
    curve = PotentialCurve(100.0, re, de, (beta,))
    grid = radial_grid(re, re, mu)
    levels = solve_vibration(curve, mu, grid, 12)
    we = 2 * beta * np.sqrt(de * HBAR2_2MU / mu)
    wexe = beta**2 * HBAR2_2MU / mu
    x = np.arange(12) + 0.5
    np.testing.assert_allclose(levels.g, 100.0 + we * x - wexe * x**2, atol=1e-3)
    be = HBAR2_2MU / mu / re**2
    assert abs(levels.d[0] / (4 * be**3 / we**2) - 1) < 0.03
    shifted = PotentialCurve(0.0, re + 0.03, de, (beta,))
    other = solve_vibration(shifted, mu, grid, 12)
    q = moment_matrix(other, levels, np.ones_like(grid)) ** 2
    assert abs(q[0].sum() - 1) < 1e-6
    assert 0.05 < q[0, 1] < 0.6


@pytest.mark.parametrize(
    ("we", "wexe", "be", "alphae", "mu"),
    [(1009.2, 4.56, 0.5354, 0.0030, 11.994), (1298.4, 19.2, 4.277, 0.097, 0.983)],
)
def test_curve_from_constants_returns_its_constants(we, wexe, be, alphae, mu):
    curve = curve_from_constants(we, wexe, be, alphae, mu)
    levels = solve_vibration(curve, mu, radial_grid(curve.re, curve.re, mu), 4)
    steps = np.diff(levels.g)
    assert abs(steps[0] / (we - 2 * wexe) - 1) < 2e-3
    assert abs((steps[0] - steps[1]) / (2 * wexe) - 1) < 0.1
    assert abs((levels.b[0] - levels.b[1]) / alphae - 1) < 0.1


def test_lines_carry_the_tabulated_radiative_lifetime():
    lines = band_lines(
        "TiO", "gamma", isotopes=False, wave_range_aa=(4000.0, 60_000.0), strength_floor=0.0
    )
    species = load_species("TiO")
    rate = species.system("gamma").einstein_a_s
    # Lines that end in v' = 0, summed over everything: A times the number of upper sublevels.
    chosen = lines.v_upper == 0
    j = np.arange(species.system("gamma").jmax + 1)
    omegas = (2, 3, 4)
    weight = sum(2 * np.sum(2 * j[j >= omega] + 1) for omega in omegas)
    assert abs(lines.ga_s[chosen].sum() / (rate * weight) - 1) < 0.08


def test_heavier_titanium_shifts_the_gamma_0_1_band_to_the_blue():
    species = load_species("TiO")
    index = [isotope.name for isotope in species.isotopologues].index("50Ti16O")
    light = head_wavelengths("TiO", "gamma", 0, 1)
    heavy = head_wavelengths("TiO", "gamma", 0, 1, isotope=index)
    shift_cm = 1e8 / heavy[0].wave_air_aa - 1e8 / light[0].wave_air_aa
    # Vibration scales with rho: v'' = 1 sinks by 1.5 quanta of X, v' = 0 by half a quantum of A.
    rho = np.sqrt(species.isotopologues[0].mu / species.isotopologues[index].mu)
    expected = (1 - rho) * (1.5 * 1009.0 - 0.5 * 868.0)
    assert abs(shift_cm / expected - 1) < 0.08


def test_abundances_share_out_the_line_strength():
    everything = band_lines("TiO", "delta").ga_s.sum()
    alone = band_lines("TiO", "delta", isotopes=False).ga_s.sum()
    assert abs(everything / alone - 1) < 0.02


def test_partition_function_of_tio_is_that_of_rotors_and_oscillators():
    temperature = np.array([1500.0, 3000.0, 4500.0])
    kt = temperature / 1.438776877
    x = level_constants("TiO", "X3Delta")
    spin = sum(np.exp(-x.a[0] * 2 * (s + 1) / kt) for s in (-1, 0, 1))
    estimate = 2 * spin * kt / x.b[0] / (1 - np.exp(-1000.0 / kt))
    ratio = partition_function("TiO", temperature) / estimate
    assert np.all(ratio > 0.99)
    assert ratio[0] < 1.06
    # Excited electronic states and anharmonicity only add, more at higher temperature.
    assert np.all(np.diff(ratio) > 0)
    assert ratio[-1] < 1.35


@pytest.mark.parametrize("name", list_species())
def test_every_species_gives_lines_in_the_right_place(name):
    species = load_species(name)
    for system in species.systems:
        upper, lower = species.state(system.upper), species.state(system.lower)
        assert upper.two_s == lower.two_s
        assert abs(upper.lambda_qn - lower.lambda_qn) <= 1
        lines = band_lines(name, system.name, isotopes=False)
        assert np.all(np.diff(lines.wavenumber_cm) >= 0)
        assert np.all(lines.e_lower_cm >= -1e-6)
        assert np.all(lines.ga_s > 0)
        assert lines.system == system.name


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(UsageError, match="TiO"):
        load_species("TiO2")
    with pytest.raises(UsageError, match="gamma_prime"):
        band_lines("TiO", "omega")
