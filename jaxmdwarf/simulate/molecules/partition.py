"""Internal partition functions of molecules, by summation over their levels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from jaxmdwarf.simulate.constants import HC_OVER_K_CM
from jaxmdwarf.simulate.molecules.hamiltonian import (
    UNPHYSICAL_CM,
    solve_levels,
)
from jaxmdwarf.simulate.molecules.levels import (
    angular_momenta,
    lowest_level,
    solve_isotopologue,
    take_levels,
)
from jaxmdwarf.simulate.molecules.species import load_species

_PARTITION_J = 260


@lru_cache(maxsize=16)
def _partition_levels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Energies above the lowest level and weights of all bound levels, summed into bins."""
    species = load_species(name)
    molecule = solve_isotopologue(name, 0)
    zero = lowest_level(name, 0)
    energies, weights = [], []
    for state in species.states:
        c = molecule.constants[state.name]
        # Expansions turn over at high v: those levels are no levels.
        rising = np.concatenate([[True], np.diff(c.t) > 0.2 * (c.t[1] - c.t[0])])
        n_v = int(np.argmin(rising)) if not rising.all() else c.n_v
        j = angular_momenta(state.two_s, _PARTITION_J)
        for energy, _ in solve_levels(
            state.basis, take_levels(c, slice(max(n_v, 1))), j, vectors=False
        ):
            e = energy - zero
            real = energy < UNPHYSICAL_CM / 2
            # A level that falls with J has passed the top of its expansion. Below the J where all
            # spin components exist, the order of an inverted multiplet changes without that.
            complete = np.asarray(real.all(axis=2, keepdims=True))[:, :-1]
            bound = np.ones_like(real)
            bound[:, 1:] = np.cumprod(
                (np.diff(energy, axis=1) > 0) | ~complete, axis=1, dtype=int
            ).astype(bool)
            keep = real & bound
            weight = np.broadcast_to((2 * j + 1)[None, :, None], e.shape)
            energies.append(e[keep])
            weights.append(weight[keep])
    e, w = np.concatenate(energies), np.concatenate(weights)
    # Five-cm^-1 bins keep the mean energy of their members: exact to 1e-6 above 100 K.
    bins = np.floor(e / 5.0).astype(int)
    total = np.bincount(bins, weights=w)
    mean = np.bincount(bins, weights=w * e) / np.where(total > 0, total, 1.0)
    return mean[total > 0], total[total > 0]


def partition_function(species_name: str, temperature: np.ndarray | float) -> np.ndarray:
    """Internal partition function by direct summation over all listed electronic states.

    Parameters
    ----------
    species_name : str
        For instance ``"TiO"``.
    temperature : array_like
        Kelvin, any shape.

    Returns
    -------
    numpy.ndarray
        Q(T) of the main isotopologue, zero of energy at its lowest level; counts spin and
        Lambda-doublets, not nuclear spin. Same shape as `temperature`.
    """
    energy, weight = _partition_levels(species_name)
    t = np.asarray(temperature, dtype=float)
    boltzmann = np.exp(-HC_OVER_K_CM * energy / t[..., None])
    return np.asarray(boltzmann @ weight)
