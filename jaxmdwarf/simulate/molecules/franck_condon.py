"""Vibrational wave functions, level constants and overlaps from potential curves.

Every electronic state has an extended Morse curve (Lee, Seto, Hirao, Bernath & Le Roy 1999, J. Mol.
Spectrosc. 194, 197),

    V(r) = V0 + D (1 - exp(-beta(r) (r - re)))^2,
    beta = sum_i b_i y^i,  y = (r^2 - re^2) / (r^2 + re^2),

either with published parameters or with the three b_i that reproduce we, wexe and alphae. Levels
come from the sinc discrete variable representation (Colbert & Miller 1992, J. Chem. Phys. 96, 1982)
on a grid shared by all states of a molecule, so that overlaps and transition moments are dot
products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HBAR2_2MU = 16.857629206
"""hbar^2 / 2 in cm^-1 u A^2: B = HBAR2_2MU / (mu r^2)."""


@dataclass(frozen=True)
class PotentialCurve:
    """Extended Morse oscillator; lengths in A, energies in cm^-1.

    Parameters
    ----------
    v0 : float
        Energy at the minimum.
    re : float
        Equilibrium distance.
    depth : float
        D, asymptote minus minimum.
    betas : tuple of float
        b_0, b_1, ... in A^-1.
    inner_order : int
        Highest order of beta used inside re (r < re).
    """

    v0: float
    re: float
    depth: float
    betas: tuple[float, ...]
    inner_order: int = 1

    def energy(self, r: np.ndarray) -> np.ndarray:
        """Potential at the distances `r` (A), cm^-1."""
        y = (r**2 - self.re**2) / (r**2 + self.re**2)
        outer = np.polynomial.polynomial.polyval(y, self.betas)
        inner = np.polynomial.polynomial.polyval(y, self.betas[: self.inner_order + 1])
        beta = np.where(r > self.re, outer, inner)
        return self.v0 + self.depth * (1.0 - np.exp(-beta * (r - self.re))) ** 2


def curve_from_constants(
    we: float, wexe: float, be: float, alphae: float, mu: float
) -> PotentialCurve:
    """Extended Morse curve with given we, wexe, alphae (cm^-1) for the reduced mass `mu` (u).

    Matches the Dunham expansion V = a0 xi^2 (1 + a1 xi + a2 xi^2), a0 = we^2/4B,
    alphae = -6 B^2/we (1 + a1), wexe = 3/2 B (5/4 a1^2 - a2) (Dunham 1932, Phys. Rev. 41, 721).

    Parameters
    ----------
    we, wexe : float
        Harmonic frequency and anharmonicity, cm^-1.
    be, alphae : float
        Rotational constant at the minimum and its fall with v, cm^-1.
    mu : float
        Reduced mass, u.
    """
    re = np.sqrt(HBAR2_2MU / (mu * be))
    depth = we**2 / (4.0 * wexe) if wexe > 0 else 60_000.0
    a0 = we**2 / (4.0 * be)
    a1 = -1.0 - alphae * we / (6.0 * be**2)
    a2 = 1.25 * a1**2 - wexe / (1.5 * be)
    b0 = np.sqrt(a0 / depth)
    b1 = 0.5 * (a1 + b0) * b0
    b2 = (a2 * b0**2 - b1**2 + 3.0 * b0**2 * b1 - 7.0 / 12.0 * b0**4) / (2.0 * b0) + 0.5 * b1
    # A curve whose exponent falls too fast turns over outside the levels used here.
    b2 = float(np.clip(b2, -b0, 3 * b0))
    return PotentialCurve(
        0.0, float(re), float(depth), (float(b0 / re), float(b1 / re), float(b2 / re)), 2
    )


@dataclass(frozen=True)
class VibrationalLevels:
    """Levels of one curve for one reduced mass.

    `g` energies (n_v,) on the curve's own zero, `b`, `d`, `h` rotational constants (n_v,) and
    `psi` wave functions (n_grid, n_v), orthonormal as vectors on the grid.
    """

    g: np.ndarray
    b: np.ndarray
    d: np.ndarray
    h: np.ndarray
    psi: np.ndarray


def radial_grid(re_min: float, re_max: float, mu: float, energy_cm: float = 3.0e4) -> np.ndarray:
    """Common grid (A) for curves with minima between `re_min` and `re_max`.

    The spacing resolves waves of kinetic energy `energy_cm` for the reduced mass `mu` (u) with half
    a step to spare; light molecules reach further out.

    Parameters
    ----------
    re_min, re_max : float
        Smallest and largest equilibrium distance, A.
    mu : float
        Reduced mass, u.
    energy_cm : float
        Kinetic energy that is resolved, cm^-1.

    Returns
    -------
    (n_grid,) distances, A
    """
    step = np.pi / (1.5 * np.sqrt(energy_cm * mu / HBAR2_2MU))
    inner, outer = (0.5, 2.6) if mu < 3.0 else (0.68, 1.9)
    n_grid = int(np.ceil((outer * re_max - inner * re_min) / step))
    return np.linspace(inner * re_min, outer * re_max, n_grid)


def solve_vibration(curve: PotentialCurve, mu: float, r: np.ndarray, n_v: int) -> VibrationalLevels:
    """Lowest `n_v` vibrational levels of `curve` for the reduced mass `mu` (u) on the grid `r`.

    D_v and H_v follow from perturbation theory in the rotational energy (Hutson 1981, J. Phys. B
    14, 851), with all other levels of the grid as the complete set.

    Parameters
    ----------
    curve : PotentialCurve
    mu : float
        Reduced mass, u.
    r : (n_grid,)
        Distances, A, equidistant; see `radial_grid`.
    n_v : int
        Levels from v = 0.
    """
    n = len(r)
    step = r[1] - r[0]
    diff = np.arange(n)[:, None] - np.arange(n)[None, :]
    kinetic = 2.0 * (-1.0) ** diff / np.where(diff == 0, 1, diff) ** 2
    kinetic[np.arange(n), np.arange(n)] = np.pi**2 / 3.0
    potential = np.minimum(curve.energy(r), curve.v0 + 20.0 * curve.depth)
    matrix = kinetic * HBAR2_2MU / mu / step**2
    matrix[np.arange(n), np.arange(n)] += potential
    energy, psi = np.linalg.eigh(matrix)
    # Fix the arbitrary signs: positive at the outermost lobe would flip between isotopologues.
    peak = psi[np.argmax(np.abs(psi) > 0.3 * np.abs(psi).max(axis=0), axis=0), np.arange(n)]
    psi = psi * np.where(peak < 0, -1.0, 1.0)
    rot = HBAR2_2MU / mu * (psi.T @ (psi / r[:, None] ** 2))
    b = np.diag(rot)[:n_v].copy()
    gap = energy[:n_v, None] - energy[None, :]
    np.fill_diagonal(gap, np.inf)
    mixed = rot[:n_v] / gap
    mixed[np.arange(n_v), np.arange(n_v)] = 0.0
    d = -np.einsum("vk,vk->v", mixed, rot[:n_v])
    h = np.einsum("vk,kl,vl->v", mixed, rot, mixed, optimize=True)
    h -= b * np.einsum("vk,vk->v", mixed, mixed)
    return VibrationalLevels(energy[:n_v], b, d, h, psi[:, :n_v])


def moment_matrix(
    upper: VibrationalLevels, lower: VibrationalLevels, moment: np.ndarray
) -> np.ndarray:
    """<v'| mu(r) |v''>, shape (n_v_upper, n_v_lower), in the unit of `moment` on the grid.

    Parameters
    ----------
    upper, lower : VibrationalLevels
        On one grid.
    moment : (n_grid,)
        mu(r) on that grid.
    """
    return np.asarray(upper.psi.T @ (moment[:, None] * lower.psi))
