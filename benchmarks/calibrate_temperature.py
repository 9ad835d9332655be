"""Set the temperature structure of simulated atmospheres by brightness temperatures of PHOENIX.

Usage: JAXMDWARF_TEST_DATA=FOLDER python benchmarks/calibrate_temperature.py [--fit]

Prints brightness temperature over Teff of simulated theory and of published PHOENIX spectra
(Husser et al. 2013, solar, log g 5, R = 1000, as distributed with VSPEC) in fifteen windows; with
--fit, first searches depth and sharpness of the surface cooling and the anchor of
`jaxmdwarf.simulate.atmosphere.TemperatureStructure` by least squares. Line strengths stay fixed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from jaxmdwarf.simulate.atmosphere import TemperatureStructure
from jaxmdwarf.simulate.synthesis import Simulator, build_simulator, surface_flux

WINDOWS_AA = np.array(
    # pseudo-continua and TiO, VO, CaH bands from the shallowest to the deepest
    [6130, 6230, 6530, 6800, 7044, 7130, 7200, 7550, 7700, 7800, 8120, 8250, 8450, 8600, 8800.0]
)
TEFF = (3000, 3200, 3400, 3600, 3800, 3900)
HALF_WIDTH_AA = 4.0
C2_AA_K, C1 = 1.438776877e8, 2.0 * np.pi * 6.62607015e-27 * 2.99792458e10**2 * 1e32
FREE = ("cooling_depth", "cooling_power", "anchor_depth")


def brightness_temperature(flux: np.ndarray) -> np.ndarray:
    """Temperature of the black body of the same flux (erg/s/cm2/A) at each window, K."""
    return C2_AA_K / (WINDOWS_AA * np.log1p(C1 / WINDOWS_AA**5 / flux))


def read_phoenix(path: Path) -> np.ndarray:
    """Brightness temperature over Teff, (n_teff, n_window)."""
    archive = np.load(path)
    offsets = np.linspace(-HALF_WIDTH_AA, HALF_WIDTH_AA, 9)
    rows = []
    for teff in TEFF:
        flux = np.interp(WINDOWS_AA[:, None] + offsets, archive["wave"], archive[str(teff)])
        rows.append(brightness_temperature(1e-8 * flux.mean(axis=1)) / teff)  # per cm to per A
    return np.stack(rows)


def simulate(simulator: Simulator, structure: TemperatureStructure) -> np.ndarray:
    """The same for simulated theory."""
    labels = jnp.array([(teff, 5.0, 0.0, 0.0) for teff in TEFF], dtype=jnp.float32)
    changed = Simulator(simulator.tables, structure, simulator.n_depth)
    flux = np.asarray(jax.jit(jax.vmap(lambda row: surface_flux(changed, row)))(labels))
    inside = np.abs(simulator.wave_aa - WINDOWS_AA[:, None]) < HALF_WIDTH_AA
    means = np.stack([flux[:, window].mean(axis=1) for window in inside], axis=1)
    return brightness_temperature(means) / np.array(TEFF)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true")
    fit = parser.parse_args().fit
    data = Path(os.environ["JAXMDWARF_TEST_DATA"])
    target = read_phoenix(data / "vspec_phoenix_R1000_logg5_solar.npz")
    simulator, structure = build_simulator(), TemperatureStructure()
    if fit:
        start = np.log([getattr(structure, name) for name in FREE])

        def residuals(values):
            changed = replace(structure, **dict(zip(FREE, np.exp(values).tolist(), strict=True)))
            return ((simulate(simulator, changed) - target) / 0.02).ravel()

        found = least_squares(residuals, start, diff_step=0.02, max_nfev=8)
        structure = replace(
            structure, **dict(zip(FREE, np.exp(found.x).round(4).tolist(), strict=True))
        )
    print(structure)
    ours = simulate(simulator, structure)
    print("window " + "".join(f"{window:11.0f}" for window in WINDOWS_AA))
    for teff, row, real in zip(TEFF, ours, target, strict=True):
        pairs = zip(row, real, strict=True)
        print(f"{teff} K " + "".join(f"{a:6.3f}/{b:.2f}" for a, b in pairs))
    print(f"rms difference {np.sqrt(np.mean((ours - target) ** 2)):.4f} of Teff")


if __name__ == "__main__":
    main()
