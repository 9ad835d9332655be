"""Internal partition functions of atoms and molecules, summed once on the host in float64."""

from __future__ import annotations

import numpy as np

from jaxmdwarf.simulate.constants import EV_KELVIN, HC_OVER_K_CM


def atomic_log_q(row: dict[str, str], temperature: np.ndarray) -> np.ndarray:
    """ln Q of an atom or ion: a polynomial in ln T.

    Parameters
    ----------
    row : dict
        Of ``atoms.csv``, with coefficients ``a0`` to ``a5``.
    temperature : (n,)
        K.
    """
    log_t = np.log(temperature)
    return np.polyval([float(row[f"a{i}"]) for i in range(5, -1, -1)], log_t)


def diatomic_log_q(
    states: list[dict[str, str]], dissociation_ev: float, symmetry: int, temperature: np.ndarray
) -> np.ndarray:
    """ln Q of a diatomic: direct sum over its bound rovibrational levels, from the lowest up.

    Parameters
    ----------
    states : list of dict
        Rows of ``diatomic_states.csv``, one an electronic state, the lowest first.
    dissociation_ev : float
        Levels above it are no levels.
    symmetry : int
        2 for two like nuclei, else 1.
    temperature : (n,)
        K.
    """
    limit = dissociation_ev * EV_KELVIN / HC_OVER_K_CM
    levels: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    v = np.arange(200) + 0.5
    zero = None
    for state in states:
        te, we, wexe, weye, be, alpha = (
            float(state[key]) for key in ("te", "we", "wexe", "weye", "be", "alphae")
        )
        vibration = we * v - wexe * v**2 + weye * v**3
        # The Dunham series is used up to where it turns over, where it has lost its meaning.
        turning = np.flatnonzero(np.diff(vibration) <= 0)
        n_v = turning[0] + 1 if turning.size else v.size
        if zero is None:
            zero = te + vibration[0]
        centrifugal = 4.0 * be**3 / we**2
        for i in range(n_v):
            origin = te + vibration[i] - zero
            b_v = be - alpha * v[i]
            if origin > limit or b_v <= 0:
                break
            # To the top of the centrifugal ladder; higher J carry no population.
            j = np.arange(min(400, int(np.sqrt(b_v / (2.0 * centrifugal)))))
            x = j * (j + 1.0)
            energy = origin + b_v * x - centrifugal * x**2
            bound = energy < limit
            spin = np.where(j % 2 == 1, 1.5, 0.5) / 2.0 if symmetry == 2 and be > 20 else None
            weight = float(state["weight"]) * (2.0 * j + 1.0)
            weight = weight / symmetry if spin is None else weight * spin
            levels.append(energy[bound])
            weights.append(weight[bound])
    energy = np.concatenate(levels)
    weight = np.concatenate(weights)
    return np.log(np.exp(-HC_OVER_K_CM * energy / temperature[:, None]) @ weight)


def polyatomic_log_q(row: dict[str, str], symmetry: int, temperature: np.ndarray) -> np.ndarray:
    """ln Q of a polyatomic: rigid rotor and harmonic oscillators.

    Parameters
    ----------
    row : dict
        Of ``polyatomic_constants.csv``; a missing A marks a linear molecule.
    symmetry : int
        Of rotation.
    temperature : (n,)
        K.
    """
    b = float(row["b"])
    kt = temperature / HC_OVER_K_CM
    if row["a"]:
        a, c = float(row["a"]), float(row["c"])
        rotation = np.sqrt(np.pi * kt**3 / (a * b * c)) / symmetry
    else:
        rotation = kt / (b * symmetry)
    log_q = np.log(float(row["weight"]) * rotation)
    for frequency in row["frequencies"].split():
        log_q = log_q - np.log1p(-np.exp(-float(frequency) / kt))
    return log_q
