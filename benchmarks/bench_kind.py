"""How often objects of each kind are flagged as no M dwarfs, and how well activity and types are.

Usage: JAXMDWARF_TEST_DATA=FOLDER python benchmarks/bench_kind.py [--n 1000] [--seeds 11 12 13]

Real LAMOST spectra, black bodies with hydrogen and metal lines, and simulated surveys, all measured
without a model. Writes benchmarks/results/kind/kind.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np

import jaxmdwarf as jm
from jaxmdwarf.quality import HARMFUL_FLAGS, QualityFlag

HOT_LINES_AA = {
    line: width
    for width, lines in (
        (3.0, (6564.6, 8544.4)),
        (2.5, (8664.5,)),
        (1.2, (8500.4,)),
        (0.9, (6496.0,)),
        (0.8, (5891.6, 6280.0)),
        (0.6, (5897.6,)),
        (0.5, (6162.9,)),
        (0.4, (8807.0,)),
        (0.3, (6103.0, 6141.0, 6431.0)),
    )
    for line in lines
}
"""Equivalent widths (Angstrom) of lines of a star of 6000 K, by vacuum wavelength."""


def make_hot_stars():
    """Black bodies of 5000 to 9000 K with a few lines and no band at all, S/N 30 to 150."""
    wave = 10 ** (3.5682 + 1e-4 * np.arange(3909))
    spectra = []
    for k, teff in enumerate(range(5000, 9001, 250)):
        flux = wave**-5.0 / np.expm1(1.4388e8 / (wave * teff))
        for centre, width in HOT_LINES_AA.items():
            hydrogen = abs(centre - 6564.6) < 0.1
            sigma = 3.5 if hydrogen else 2.2
            strength = width * (1.3 if hydrogen and teff > 6000 else (6000 / teff) ** 2)
            profile = np.exp(-0.5 * ((wave - centre) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
            flux = flux * (1 - strength * profile)
        flux = flux / np.median(flux)
        for snr in (30, 60, 100, 150):
            noise = np.random.default_rng((k, snr)).normal(size=wave.size) / snr
            spectra.append(jm.Spectrum.from_arrays(wave, flux + noise, sigma=1 / snr, z=0.0))
    return spectra


def count_flagged(table) -> dict[str, float]:
    """Rows, those with NOT_M_DWARF, and those with any flag that makes a row unfit for use."""
    flags = np.asarray(table["flags"])
    not_m = (flags & int(QualityFlag.NOT_M_DWARF)) > 0
    harmful = (flags & int(HARMFUL_FLAGS)) > 0
    return {
        "n": len(flags),
        "not_m_dwarf": round(float(not_m.mean()), 4) if len(flags) else None,
        "any_harmful_flag": round(float(harmful.mean()), 4) if len(flags) else None,
    }


def judge_real(data: Path) -> dict[str, object]:
    """LAMOST spectra by what their headers say, with and without a look at the headers' classes."""
    result: dict[str, object] = {}
    for name, folder in (("with_classes", None), ("without_classes", "")):
        spectra = list(jm.read([str(data / "lamost_plate"), str(data / "lamost")]))
        table = jm.measure(spectra if folder is None else [_forget_class(one) for one in spectra])
        truth = [(one.meta.object_class, one.meta.subclass, one.meta.path) for one in spectra]
        is_m = np.array(["M" in subclass and "g" not in subclass for _, subclass, _ in truth])
        unknown = np.array([kind == "Unknown" for kind, _, _ in truth])
        star = np.array([kind == "STAR" for kind, _, _ in truth])
        judging = np.array([crc32(Path(path).name.encode()) % 2 == 1 for *_, path in truth])
        # One has no flux at all.
        bright = (np.fmax(table["SNRr"], 0) > 10) & np.isfinite(table["BandStrength"])
        early = np.array([subclass in ("K5", "K7") for _, subclass, _ in truth])
        groups = {
            "other_stars": ~is_m & star,
            "other_stars_judging_half": ~is_m & star & judging,
            "other_stars_but_K5_K7": ~is_m & star & ~early,
            "galaxies": ~is_m & ~star & ~unknown,
            "m_dwarfs_snr_10": is_m & bright,
            "m_dwarfs_snr_10_judging_half": is_m & bright & judging,
        }
        result[name] = {group: count_flagged(table[rows]) for group, rows in groups.items()}
        if folder is None:
            result["indices"] = compare_indices(data, table, truth, is_m)
    return result


def _forget_class(spectrum):
    return replace(spectrum, meta=replace(spectrum.meta, object_class="", subclass=""))


def compare_indices(data: Path, table, truth, is_m) -> dict[str, object]:
    """TiO5 and Halpha beside kastredux's, types beside the headers', of M dwarfs of S/N_r > 20."""
    with open(data / "kastredux_indices_dev.csv", newline="") as file:
        theirs = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    tio5, halpha, subtype = [], [], {}
    for row, (_, subclass, path) in enumerate(truth):
        name = Path(path).name.removesuffix(".gz")
        if not is_m[row] or not table["SNRr"][row] > 20 or not np.isfinite(table["TiO5"][row]):
            continue  # one has no flux at all
        if name in theirs:
            tio5.append(table["TiO5"][row] - float(theirs[name]["TiO5"]))
            halpha.append(table["EW_Halpha"][row] + float(theirs[name]["EW_Ha"]))
        subtype[f"{name} ({subclass})"] = round(
            float(table["SpT"][row]) - float(subclass.strip("dM")), 2
        )
    return {
        "n": len(tio5),
        "tio5_median_abs": round(float(np.median(np.abs(tio5))), 4),
        "tio5_largest": round(float(np.max(np.abs(tio5))), 4),
        "halpha_aa_median": round(float(np.median(halpha)), 3),
        "halpha_aa_largest": round(float(np.max(np.abs(halpha))), 3),
        "subtype_less_header": subtype,
    }


def judge_simulation(n: int, seed: int) -> dict[str, object]:
    """A simulated survey: M dwarfs that are flagged, others that are not, activity."""
    survey = jm.simulate(n, seed=seed)
    table, truth = jm.measure(survey.spectra), survey.truth
    dwarf = (truth["kind"] == "mdwarf").to_numpy()
    single = dwarf & (truth["is_binary"] == 0).to_numpy()
    snr_r, snr_i = (np.asarray(table[name]) for name in ("SNRr", "SNRi"))
    bright = single & (snr_r > 20)
    active = (truth["active"] == 1).to_numpy()
    found = np.asarray(table["Activity"]) == 1
    quiet = np.asarray(table["EW_Halpha"])[bright & ~active]
    return {
        "single_m_dwarfs_snr_5": count_flagged(table[single & (np.fmin(snr_r, snr_i) > 5)]),
        "k_dwarfs": count_flagged(table[(truth["kind"] == "kdwarf").to_numpy()]),
        "giants": count_flagged(table[(truth["kind"] == "giant").to_numpy()]),
        "activity": {
            "n": int(bright.sum()),
            "n_active": int((bright & active).sum()),
            "n_found": int((bright & found).sum()),
            "n_right": int((bright & found & active).sum()),
            "quiet_halpha_aa_median": round(float(np.nanmedian(quiet)), 3),
        },
    }


def pool_activity(results) -> dict[str, float]:
    """Completeness and purity over all surveys: there are few active stars in each."""
    right, active, found = (
        sum(one["activity"][name] for one in results) for name in ("n_right", "n_active", "n_found")
    )
    return {
        "n_active": active,
        "completeness": round(right / active, 4),
        "purity": round(right / found, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/kind"))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[11, 12, 13])
    options = parser.parse_args()
    result: dict[str, object] = {"hot_stars": count_flagged(jm.measure(make_hot_stars()))}
    result["real"] = judge_real(Path(os.environ["JAXMDWARF_TEST_DATA"]))
    simulated = {seed: judge_simulation(options.n, seed) for seed in options.seeds}
    result |= {f"simulated_seed_{seed}": one for seed, one in simulated.items()}
    if simulated:
        result["activity_of_all_seeds"] = pool_activity(simulated.values())
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "kind.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
