"""Physical constants of the simulation: CODATA 2018 in cgs, and products of them."""

K_BOLTZMANN = 1.380649e-16
"""erg K^-1."""

H_PLANCK = 6.62607015e-27
"""erg s."""

C_LIGHT = 2.99792458e10
"""cm s^-1."""

U_GRAM = 1.66053906660e-24
"""Unified atomic mass unit, g."""

ELECTRON_U = 5.48579909065e-4
"""Mass of the electron, u."""

EV_KELVIN = 11604.518121
"""1 eV over k, K."""

K_EV = 8.617333262e-5
"""k in eV K^-1."""

HC_OVER_K_CM = 1.438776877
"""Second radiation constant h c / k, cm K."""

HC_OVER_K_AA = 1.438776877e8
"""The same in Angstrom K."""

HC_ERG_AA = 1.98644586e-8
"""h c, erg Angstrom."""

HC_EV_AA = 12398.41984
"""h c, eV Angstrom."""
