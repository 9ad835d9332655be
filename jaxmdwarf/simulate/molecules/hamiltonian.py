"""Rotational and fine-structure levels of a diatomic molecule (or linear radical) in one state.

The effective Hamiltonian of one vibronic level, in the N^2 form,

    H = T + A Lambda Sigma + (2/3) lambda (3 Sigma^2 - S(S+1)) + shift(Sigma)
        + B N^2 - D N^4 + H N^6 + gamma N.S
        + (1/2)(o+p+q)(S+^2 + S-^2) - (1/2)(p+2q)(J+S+ + J-S-) + (1/2) q (J+^2 + J-^2),

is set up in the signed Hund's case (a) basis |Lambda, Sigma, Omega>, brought to e and f blocks and
diagonalised for all v and J at once. The Lambda-doubling operators of the last line join +Lambda
and -Lambda and exist for Pi states only (Brown & Merer 1979, J. Mol. Spectrosc. 74, 488, whose sign
convention p + 2q > 0 puts the e level of a 2Pi(1/2) pair below f). T therefore is the centre of the
multiplet, not its lowest component.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNPHYSICAL_CM = 1.0e9
"""Energy given to basis functions with J < |Omega|; levels near it do not exist."""


@dataclass(frozen=True)
class LevelConstants:
    """Constants of the vibrational levels of one electronic state of one isotopologue.

    Parameters
    ----------
    t, b, d, h, a, lambda_ss, gamma, o_ld, p_ld, q_ld : numpy.ndarray
        One value per v, cm^-1; see the Hamiltonian in the module's docstring.
    shift : numpy.ndarray
        Extra diagonal energy per v and Sigma (ascending Sigma), shape (n_v, 2S+1), cm^-1: what
        spin-orbit coupling to other electronic states does in second order.
    """

    t: np.ndarray
    b: np.ndarray
    d: np.ndarray
    h: np.ndarray
    a: np.ndarray
    lambda_ss: np.ndarray
    gamma: np.ndarray
    o_ld: np.ndarray
    p_ld: np.ndarray
    q_ld: np.ndarray
    shift: np.ndarray

    @property
    def n_v(self) -> int:
        """Number of vibrational levels."""
        return len(self.t)


@dataclass(frozen=True)
class Basis:
    """Signed case (a) basis of a state with `lambda_qn` >= 0 and spin two_s / 2.

    For Lambda > 0 the functions with +Lambda come first, Sigma ascending, then those with
    -Lambda, Sigma ascending.
    """

    lambda_qn: int
    two_s: int
    sigma_minus: bool = False

    @property
    def signed_lambda(self) -> np.ndarray:
        """Lambda of each function, (n_basis,)."""
        n = self.two_s + 1
        if self.lambda_qn == 0:
            return np.zeros(n)
        return np.repeat([self.lambda_qn, -self.lambda_qn], n).astype(float)

    @property
    def sigma(self) -> np.ndarray:
        """Sigma of each function, (n_basis,)."""
        one = np.arange(-self.two_s, self.two_s + 1, 2) / 2.0
        return one if self.lambda_qn == 0 else np.tile(one, 2)

    @property
    def omega(self) -> np.ndarray:
        """Omega of each function, (n_basis,)."""
        return self.signed_lambda + self.sigma

    def parity_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Orthonormal columns that span the e and the f block, each (n_basis, n_block).

        Reflection takes |Lambda, Sigma, Omega> to (-1)^(J - S + s) |-Lambda, -Sigma, -Omega>, s = 1
        for Sigma^- states; an e level has reflection parity (-1)^J or (-1)^(J - 1/2).
        """
        lam, sig = self.signed_lambda, self.sigma
        n = len(lam)
        half = self.two_s % 2
        sign_e = (-1.0) ** ((self.two_s - half) // 2 + int(self.sigma_minus))
        blocks = []
        for sign in (sign_e, -sign_e):
            columns = []
            for i in range(n):
                mirror = int(np.flatnonzero((lam == -lam[i]) & (sig == -sig[i]))[0])
                vector = np.zeros(n)
                if mirror == i:
                    if sign > 0:
                        vector[i] = 1.0
                        columns.append(vector)
                elif mirror > i:
                    vector[i], vector[mirror] = np.sqrt(0.5), sign * np.sqrt(0.5)
                    columns.append(vector)
            blocks.append(np.array(columns).T.reshape(n, -1))
        return blocks[0], blocks[1]


def _ladder(j: np.ndarray, m: np.ndarray | float) -> np.ndarray:
    """sqrt(j(j+1) - m(m-1)), zero where it would not be real."""
    return np.asarray(np.sqrt(np.clip(j * (j + 1.0) - m * (m - 1.0), 0.0, None)))


def hamiltonian_matrix(basis: Basis, constants: LevelConstants, j: np.ndarray) -> np.ndarray:
    """Matrix of the effective Hamiltonian in the signed basis.

    Parameters
    ----------
    basis : Basis
        The electronic state's basis.
    constants : LevelConstants
        Constants of n_v vibrational levels.
    j : numpy.ndarray
        Total angular momenta, shape (n_j,), integer or half-integer as the spin demands.

    Returns
    -------
    numpy.ndarray
        Shape (n_v, n_j, n_basis, n_basis), cm^-1.
    """
    lam, sig, om = basis.signed_lambda, basis.sigma, basis.omega
    spin = basis.two_s / 2.0
    n, n_j = len(lam), len(j)
    jj = j * (j + 1.0)
    n2 = np.zeros((n_j, n, n))
    ns = np.zeros((n_j, n, n))
    o_op = np.zeros((n_j, n, n))
    p_op = np.zeros((n_j, n, n))
    q_op = np.zeros((n_j, n, n))
    for i in range(n):
        n2[:, i, i] = jj + spin * (spin + 1) - om[i] ** 2 - sig[i] ** 2 + lam[i] ** 2
        ns[:, i, i] = om[i] * sig[i] - spin * (spin + 1)
        for k in range(n):
            if lam[k] == lam[i] and sig[k] == sig[i] + 1:
                s_up = _ladder(np.asarray(spin), sig[k])
                j_up = _ladder(j, om[k])
                n2[:, i, k] = n2[:, k, i] = -s_up * j_up
                ns[:, i, k] = ns[:, k, i] = 0.5 * s_up * j_up
            # Lambda -> Lambda - 2 with Sigma raised by 2, 1, 0: only +1 -> -1 for a Pi state.
            if basis.lambda_qn == 1 and lam[i] == 1 and lam[k] == -1:
                raised = round(float(sig[k] - sig[i]))
                s_1 = _ladder(np.asarray(spin), sig[i] + 1)
                if raised == 2:
                    value = s_1 * _ladder(np.asarray(spin), sig[i] + 2)
                    o_op[:, i, k] = o_op[:, k, i] = 0.5 * value
                elif raised == 1:
                    p_op[:, i, k] = p_op[:, k, i] = -0.5 * s_1 * _ladder(j, om[i])
                elif raised == 0:
                    value = _ladder(j, om[i]) * _ladder(j, om[i] - 1)
                    q_op[:, i, k] = q_op[:, k, i] = 0.5 * value
    n4 = n2 @ n2
    n6 = n4 @ n2
    c = constants

    def per_v(value: np.ndarray) -> np.ndarray:
        return np.asarray(value, dtype=float)[:, None, None, None]

    matrix = per_v(c.b) * n2 - per_v(c.d) * n4 + per_v(c.h) * n6 + per_v(c.gamma) * ns
    if basis.lambda_qn == 1:
        matrix = (
            matrix
            + per_v(c.o_ld + c.p_ld + c.q_ld) * o_op
            + per_v(c.p_ld + 2 * c.q_ld) * p_op
            + per_v(c.q_ld) * q_op
        )
    n_sigma = basis.two_s + 1
    # shift is tabulated for +Lambda; -Lambda carries it with Sigma reversed.
    shift = c.shift if n == n_sigma else np.concatenate([c.shift, c.shift[:, ::-1]], axis=1)
    diagonal = (
        c.t[:, None]
        + c.a[:, None] * lam * sig
        + (2.0 / 3.0) * c.lambda_ss[:, None] * (3.0 * sig**2 - spin * (spin + 1))
        + shift
    )
    index = np.arange(n)
    matrix[:, :, index, index] += diagonal[:, None, :]
    missing = np.abs(om)[None, :] > j[:, None] + 1e-6
    rows, columns = np.nonzero(missing)
    matrix[:, rows, columns, :] = 0.0
    matrix[:, rows, :, columns] = 0.0
    matrix[:, rows, columns, columns] = UNPHYSICAL_CM
    return matrix


def solve_levels(
    basis: Basis, constants: LevelConstants, j: np.ndarray, *, vectors: bool = True
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Term values (and eigenvectors) of the e and the f levels.

    Parameters
    ----------
    basis, constants, j
        As for `hamiltonian_matrix`.
    vectors : bool
        Whether eigenvectors are wanted.

    Returns
    -------
    list of (energy, vector)
        First e, then f. `energy` is (n_v, n_j, n_block) in cm^-1, ascending, about `UNPHYSICAL_CM`
        where J < |Omega|; `vector` is (n_v, n_j, n_basis, n_block) in the signed basis, or empty
        if not wanted.
    """
    matrix = hamiltonian_matrix(basis, constants, j)
    out: list[tuple[np.ndarray, np.ndarray]] = []
    for block in basis.parity_vectors():
        small = np.einsum("ai,vjab,bk->vjik", block, matrix, block, optimize=True)
        if vectors:
            energy, rotation = np.linalg.eigh(small)
            out.append((energy, block @ rotation))
        else:
            out.append((np.linalg.eigvalsh(small), np.zeros((0,))))
    return out


def dipole_amplitudes(upper: Basis, lower: Basis, j_upper: np.ndarray, delta_j: int) -> np.ndarray:
    """Rotational dipole amplitudes between signed basis functions.

    With them (vector_upper^T amplitude vector_lower)^2 is the Hoenl-London factor, normalised so
    that its sum over all lower levels of one upper level is 2J'+1.

    Parameters
    ----------
    upper, lower : Basis
        The two electronic states; their spins must be equal.
    j_upper : numpy.ndarray
        Upper total angular momenta J', shape (n_j,).
    delta_j : int
        J' - J'': +1 (R), 0 (Q) or -1 (P).

    Returns
    -------
    numpy.ndarray
        Shape (n_j, n_basis_upper, n_basis_lower); zero where J'' does not exist.
    """
    j_lower = j_upper - delta_j
    lam_u, lam_l = upper.signed_lambda, lower.signed_lambda
    sig_u, sig_l = upper.sigma, lower.sigma
    om_u, om_l = upper.omega, lower.omega
    step = lam_u[:, None] - lam_l[None, :]
    allowed = (sig_u[:, None] == sig_l[None, :]) & (np.abs(step) <= 1)
    if upper.lambda_qn != lower.lambda_qn:
        allowed &= step != 0
    elif upper.lambda_qn > 0:
        allowed &= step == 0
    # Sigma(+) and Sigma(-) differ in how the moments of +1 and -1 combine.
    sign = np.ones_like(step)
    if upper.sigma_minus != lower.sigma_minus:
        sign[step < 0] = -1.0
    targets = np.maximum(allowed.sum(axis=1, keepdims=True), 1)
    out = np.zeros((len(j_upper), len(lam_u), len(lam_l)))
    size = np.sqrt(np.clip(2.0 * j_lower + 1.0, 0.0, None))
    for i, k in zip(*np.nonzero(allowed), strict=True):
        q = round(float(om_u[i] - om_l[k]))
        coupling = _clebsch_gordan(j_lower, om_u[i], delta_j, q)
        out[:, i, k] = sign[i, k] * size * coupling / np.sqrt(targets[i, 0])
    return out


def _clebsch_gordan(j1: np.ndarray, m: float, delta: int, q: int) -> np.ndarray:
    """<j1 m-q, 1 q | j1+delta m>, zero where a momentum does not exist (Edmonds 1957, table 2)."""
    j = j1 + delta
    exists = (j1 >= abs(m - q) - 1e-9) & (j >= abs(m) - 1e-9) & (j1 >= 0) & (j >= 0)
    exists &= j1 + j >= 1 - 1e-9
    j1 = np.where(exists, j1, max(abs(m), abs(m - q)) + 2.0)
    sign = 1.0
    if delta == 1:
        if q == 0:
            square = (j1 - m + 1) * (j1 + m + 1) / ((2 * j1 + 1) * (j1 + 1))
        else:
            square = (j1 + q * m) * (j1 + q * m + 1) / ((2 * j1 + 1) * (2 * j1 + 2))
    elif delta == 0:
        if q == 0:
            sign = np.sign(m)
            square = m * m / (j1 * (j1 + 1))
        else:
            sign = -q
            square = (j1 + q * m) * (j1 - q * m + 1) / (2 * j1 * (j1 + 1))
    elif q == 0:
        sign = -1.0
        square = (j1 - m) * (j1 + m) / (j1 * (2 * j1 + 1))
    else:
        square = (j1 - q * m) * (j1 - q * m + 1) / (2 * j1 * (2 * j1 + 1))
    return np.where(exists, sign * np.sqrt(np.clip(square, 0.0, None)), 0.0)
