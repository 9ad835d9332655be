"""Simulated nature beside real M dwarfs: correlations, indices and a figure.

Usage: JAXMDWARF_TEST_DATA=FOLDER python benchmarks/compare_simulation.py [--out DIR]

Draws the noise-free nature spectrum that correlates best with each SDSS template of [Fe/H] = 0
(Kesseli et al. 2017, PyHammer), normalised as in the pipeline and outside the paper's masks, and
writes the correlations, the TiO5 spectral types and the best labels to comparison.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from jaxmdwarf.lsf import apply_lsf, lsf_weights
from jaxmdwarf.preprocess.continuum import normalise_model
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.synthesis import build_simulator, synthesize
from jaxmdwarf.wavelengths import PAPER_GRID, air_to_vacuum

MASKED = mask_for(PAPER_GRID, PAPER_MASKS_AA)


def normalise(flux: np.ndarray) -> np.ndarray:
    """Eq. 2-3 with the paper's masks left out, (n, n_pix)."""
    flux = np.atleast_2d(flux)
    flux = (flux / flux.mean(axis=1, keepdims=True)).astype(np.float32)
    return np.asarray(normalise_model(flux, PAPER_GRID, window=MASKED), dtype=np.float64)


def correlate(models: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Pearson correlation of each model with one real spectrum outside the masks."""
    a, b = models[:, ~MASKED], real[~MASKED]
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean()
    return a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


def tio5(flux: np.ndarray) -> np.ndarray:
    """TiO5 = mean flux in 7126-7135 over 7042-7046 Angstrom, air (Reid et al. 1995)."""
    wave = PAPER_GRID.wave_aa
    low, high, low0, high0 = air_to_vacuum(np.array([7126.0, 7135.0, 7042.0, 7046.0]))
    band, free = (wave >= low) & (wave <= high), (wave >= low0) & (wave <= high0)
    return flux[..., band].mean(axis=-1) / flux[..., free].mean(axis=-1)


def read_templates(path: Path) -> dict[str, np.ndarray]:
    """PyHammer's M0-M5 templates of solar metallicity, averaged over the paper's pixels."""
    archive = np.load(path)
    wave = archive[next(name for name in archive.files if name.startswith("wave"))]
    templates = {}
    for spectral_type in range(6):
        flux = archive[f"M{spectral_type}_+0.0_Dwarf|flux"]
        total = np.concatenate([[0.0], np.cumsum(flux[1:] * np.diff(wave))])
        templates[f"M{spectral_type}"] = np.diff(np.interp(PAPER_GRID.edges_aa, wave, total))
    return templates


def draw(templates, best, out: Path) -> None:
    """Templates in black, best nature spectra in colour, gaps where masked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 12), layout="constrained")
    axes = figure.subplots(len(templates), 1, sharex=True)
    shown = np.where(MASKED, np.nan, 1.0)
    for axis, (name, real) in zip(axes, templates.items(), strict=True):
        labels, r, model = best[name]
        axis.plot(PAPER_GRID.wave_aa, shown * normalise(real)[0], color="0.15", lw=0.8)
        axis.plot(PAPER_GRID.wave_aa, shown * model, color="#d55e00", lw=0.8)
        teff, logg, mh, _ = labels
        text = f"{name}: {teff:.0f} K, log g {logg:.2f}, [M/H] {mh:+.1f}, r = {r:.3f}"
        axis.set_title(text, loc="left", fontsize=9)
        axis.set_ylim(0.55, 1.35)
    axes[0].plot([], [], color="0.15", label="SDSS template (PyHammer)")
    axes[0].plot([], [], color="#d55e00", label="simulated nature")
    axes[0].legend(loc="upper right", ncols=2, fontsize=8)
    axes[-1].set_xlabel("vacuum wavelength (Å)")
    figure.supylabel("flux / pseudo-continuum")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/simulation"))
    out = parser.parse_args().out
    data = Path(os.environ["JAXMDWARF_TEST_DATA"])
    templates = read_templates(data / "pyhammer_KM_templates_5900_9000_vac.npz")

    simulator = build_simulator(DomainGap.full().physics())
    weights = lsf_weights(simulator.wave_aa, PAPER_GRID, resolution=1850.0)
    labels = np.array(
        [
            (teff, 4.75 + (3850.0 - teff) * 4.6e-4 + d_logg, mh, max(0.0, -0.3 * mh))
            for teff in np.arange(2900.0, 4150.0, 50.0)
            for d_logg in (-0.1, 0.1)
            for mh in (-0.5, -0.25, 0.0, 0.25)
        ]
    )
    flux = np.asarray(apply_lsf(synthesize(simulator, labels), weights))
    models = normalise(flux)
    best, table = {}, {}
    for name, real in templates.items():
        r = correlate(models, normalise(real)[0])
        k = int(np.argmax(r))
        best[name] = (labels[k], float(r[k]), models[k])
        table[name] = {"r": round(float(r[k]), 4), "labels": labels[k].round(3).tolist()}
        print(f"{name}: r = {r[k]:.3f} at {labels[k].round(2).tolist()}")
    types = {}
    for teff in (3850.0, 3500.0, 3200.0):
        row = np.array([[teff, 4.75 + (3850.0 - teff) * 4.6e-4, 0.0, 0.0]])
        seen = np.asarray(apply_lsf(synthesize(simulator, row), weights))
        types[f"{teff:.0f} K"] = round(float(8.2 - 10.775 * tio5(seen)[0]), 2)
    print("spectral types by eq. 11:", types)
    out.mkdir(parents=True, exist_ok=True)
    summary = {"correlation": table, "spectral_type": types}
    (out / "comparison.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(templates, best, out / "comparison.png")


if __name__ == "__main__":
    main()
