"""What photometry and parallaxes add to labels of spectra, where the truth is known.

Usage: jaxmdwarf quickstart --seed 31 --out DIR
       python -m benchmarks.compare_photometry DIR [--save]

Makes the value-added catalogue of the quickstart's fits without and with photometry (G, BP, RP and
parallaxes of the simulated Gaia; simulated stars follow the same relations of mass, radius and Ks,
so that log g is an upper limit of what may be hoped for), and compares single M dwarfs whose fits
are good with the truth. ``--save`` writes benchmarks/results/simulation/photometry.json.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

import jaxmdwarf as jm
from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.tables import read_table

RESULT = Path(__file__).parent / "results" / "simulation" / "photometry.json"
LABELS = {"teff": "Teff", "logg": "Logg", "mh": "M_H", "alpha_m": "alpha_M"}
EDGES = (5.0, 10.0, 20.0, 40.0, 1000.0)


def compare(folder: Path) -> dict:
    """Bias, robust scatter, stated error and pull width by label and S/N, without and with."""
    survey = folder / "survey"
    truth = read_table(survey / "truth.parquet").set_index("obsid")
    found: dict = {}
    for photometry in (False, True):
        table = jm.build_catalogue(
            folder / "catalogue.fits", gaia=survey / "gaia.parquet", photometry=photometry
        ).to_pandas()
        star = truth.loc[table["obsid"].to_numpy()]
        keep = table["good"].to_numpy() & (star["kind"].to_numpy() == "mdwarf")
        keep &= ~star["is_binary"].to_numpy().astype(bool)
        table, star = table[keep], star[keep]
        if photometry:
            found["used"] = {
                "n": len(table),
                "log_g": int((table["PhotUsed"] & 1).astype(bool).sum()),
                "teff": int((table["PhotUsed"] & 2).astype(bool).sum()),
            }
        rows: dict = {}
        for low, high in pairwise(EDGES):
            inside = table["SNRr"].between(low, high, inclusive="left").to_numpy()
            rows[f"{low:g}-{high:g}"] = {"n": int(inside.sum())} | {
                name: summarise(
                    table[column].to_numpy()[inside] - star[name].to_numpy()[inside],
                    table[f"e_{column}"].to_numpy()[inside],
                )
                for name, column in LABELS.items()
            }
        found["with" if photometry else "without"] = rows
    return found


def summarise(away: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Of differences from the truth and their stated errors."""

    def width(values: np.ndarray) -> float:
        return 1.4826 * float(np.median(np.abs(values - np.median(values))))

    return {
        "bias": float(np.median(away)),
        "scatter": width(away),
        "stated": float(np.median(error)),
        "pull_width": width(away / error),
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    found = compare(options.folder)
    print(found["used"])
    for bin_name, without in found["without"].items():
        print(f"S/N {bin_name}: {without['n']} spectra")
        for name in LABELS:
            words = []
            for kind in ("without", "with"):
                one = found[kind][bin_name][name]
                words.append(
                    f"{one['bias']:+.3f} +- {one['scatter']:.3f} (stated {one['stated']:.3f}, "
                    f"pulls {one['pull_width']:.2f})"
                )
            print(f"  {name:8s}{' -> '.join(words)}")
    if options.save:
        write_json(RESULT, found)


if __name__ == "__main__":
    main()
