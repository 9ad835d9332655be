"""How often objects of each kind are flagged as no M dwarfs, and how well activity and types are.

Usage: JAXMDWARF_TEST_DATA=FOLDER python benchmarks/bench_kind.py [--n 700] [--seeds 11 12 13]

Real LAMOST spectra, black bodies with hydrogen and metal lines, and simulated surveys: measured
without a model, then fitted with a transfer that is trained on a further survey (--n-train, --seed)
and judged on another one of the same nature (--n-test). Writes benchmarks/results/kind/kind.json,
part by part: with ``--seeds`` alone or ``--n-train 0`` the surveys or the fits of the file stay.
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
import pandas as pd

import jaxmdwarf as jm
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.quality import HARMFUL_FLAGS, QualityFlag
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.population import PopulationConfig
from jaxmdwarf.simulate.survey import SurveyConfig
from jaxmdwarf.workflows.simulation import make_grid, make_survey, nature_source

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


def count_flagged(table, *, fitted: bool = False) -> dict[str, float]:
    """Rows, those with NOT_M_DWARF, and those with any flag that makes a row unfit for use."""
    flags = np.asarray(table["flags"])

    def share(bits: QualityFlag) -> float | None:
        return round(float(((flags & int(bits)) > 0).mean()), 4) if len(flags) else None

    either = QualityFlag.NOT_M_DWARF | QualityFlag.OUT_OF_DOMAIN
    found = {"n": len(flags), "not_m_dwarf": share(QualityFlag.NOT_M_DWARF)}
    if fitted:
        found |= {"out_of_domain": share(QualityFlag.OUT_OF_DOMAIN), "either": share(either)}
    return found | {"any_harmful_flag": share(HARMFUL_FLAGS)}


def judge_real(data: Path) -> dict[str, object]:
    """LAMOST spectra by what their headers say, with and without a look at the headers' classes."""
    result: dict[str, object] = {}
    spectra = read_real(data)
    for name, known in (("with_classes", True), ("without_classes", False)):
        table = jm.measure(spectra if known else [_forget_class(one) for one in spectra])
        groups = group_real(spectra, table)
        result[name] = {group: count_flagged(table[rows]) for group, rows in groups.items()}
        if known:
            result["indices"] = compare_indices(data, table, spectra)
    return result


def read_real(data: Path) -> list:
    """LAMOST spectra of a plate, and M dwarfs of several data releases."""
    return list(jm.read([str(data / "lamost_plate"), str(data / "lamost")]))


def is_m_dwarf(spectra) -> np.ndarray:
    """What the headers say."""
    return np.array(["M" in one.meta.subclass and "g" not in one.meta.subclass for one in spectra])


def group_real(spectra, table) -> dict[str, np.ndarray]:
    """Rows of each kind by the headers; half of the files, by a hash of their names, judge."""
    is_m = is_m_dwarf(spectra)
    star = np.array([one.meta.object_class == "STAR" for one in spectra])
    unknown = np.array([one.meta.object_class == "Unknown" for one in spectra])
    judging = np.array([crc32(Path(one.meta.path).name.encode()) % 2 == 1 for one in spectra])
    # One has no flux at all.
    bright = (np.fmax(table["SNRr"], 0) > 10) & np.isfinite(table["BandStrength"])
    k7 = np.array([one.meta.subclass == "K7" for one in spectra])
    return {
        "other_stars": ~is_m & star,
        "other_stars_judging_half": ~is_m & star & judging,
        "other_stars_but_K7": ~is_m & star & ~k7,
        "K7_judging_half": k7 & judging,
        "K7": k7,
        "galaxies": ~is_m & ~star & ~unknown,
        "m_dwarfs_snr_10": is_m & bright,
        "m_dwarfs_snr_10_judging_half": is_m & bright & judging,
    }


def _forget_class(spectrum):
    return replace(spectrum, meta=replace(spectrum.meta, object_class="", subclass=""))


WRONG_HEADERS = ("sp03-151",)
"""Stars whose headers are known to be wrong: dM4 with a TiO5 of 0.75."""


def compare_indices(data: Path, table, spectra) -> dict[str, object]:
    """TiO5 and Halpha beside kastredux's, types beside the headers', of M dwarfs of S/N_r > 20."""
    with open(data / "kastredux_indices_dev.csv", newline="") as file:
        theirs = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    is_m, tio5, halpha = is_m_dwarf(spectra), [], []
    less: dict[str, dict[str, float]] = {"SpT": {}, "SpT_bands": {}}
    for row, one in enumerate(spectra):
        name, subclass = Path(one.meta.path).name.removesuffix(".gz"), one.meta.subclass
        if not is_m[row] or not table["SNRr"][row] > 20 or not np.isfinite(table["TiO5"][row]):
            continue  # one has no flux at all
        if name in theirs:
            tio5.append(table["TiO5"][row] - float(theirs[name]["TiO5"]))
            halpha.append(table["EW_Halpha"][row] + float(theirs[name]["EW_Ha"]))
        for column, differences in less.items():
            differences[f"{name} ({subclass})"] = round(
                float(table[column][row]) - float(subclass.strip("dM")), 2
            )
    within = {}
    for column, differences in less.items():
        right = [
            value
            for name, value in differences.items()
            if not any(wrong in name for wrong in WRONG_HEADERS)
        ]
        within[column] = {
            "n": len(right),
            "within_one": int(np.sum(np.abs(right) <= 1.0)),
            "nearest_class_within_one": int(np.sum(np.abs(np.round(right)) <= 1.0)),
        }
    return {
        "n": len(tio5),
        "tio5_median_abs": round(float(np.median(np.abs(tio5))), 4),
        "tio5_largest": round(float(np.max(np.abs(tio5))), 4),
        "halpha_aa_median": round(float(np.median(halpha)), 3),
        "halpha_aa_largest": round(float(np.max(np.abs(halpha))), 3),
        "subtypes_but_of_wrong_headers": within,
        "subtype_less_header": less,
    }


def judge_fits(data: Path, n_train: int, n_test: int, seed: int) -> dict[str, object]:
    """Fits with a transfer of a simulated survey: other stars of the same nature, and real ones."""
    nature = nature_source(DomainGap.parse("1"), seed=seed)
    share = min(0.6, max(SurveyConfig.reference_share, 450 / n_train))
    train = make_survey(
        SurveyConfig(n_spectra=n_train, seed=seed, reference_share=share), nature=nature
    )
    # Of other kinds there must be enough to be counted.
    mixed = PopulationConfig(k_dwarf_fraction=0.15, giant_fraction=0.05)
    test = make_survey(
        SurveyConfig(n_spectra=n_test, seed=seed + 1, population=mixed), nature=nature
    )
    grid = make_grid(1152, nature_source(DomainGap.none(), seed=seed), seed=seed)
    emulator = jm.train_emulator(grid)
    trained = jm.train_transfer(
        train.spectra, emulator, reference=pd.DataFrame(train.tables["reference"]), seed=seed
    )
    real = [one for one in read_real(data) if can_be_fitted(one, trained.model)]
    seen = np.array([can_be_fitted(one, trained.model) for one in test.spectra])
    fitted = {
        name: fit_all(spectra, trained)
        for name, spectra in {
            "hot": make_hot_stars(),
            "real": real,
            "real without classes": [_forget_class(one) for one in real],
            "simulated": [one for one, use in zip(test.spectra, seen, strict=True) if use],
        }.items()
    }
    truth = pd.DataFrame(test.tables["truth"]).iloc[test.rows][seen].reset_index(drop=True)
    table = fitted["simulated"]
    bright = np.fmin(table["SNRr"], table["SNRi"]).to_numpy() > 5
    single = ((truth["kind"] == "mdwarf") & (truth["is_binary"] == 0)).to_numpy() & bright
    intact = (truth["failed"] == 0).to_numpy()
    right = np.abs(table["Teff"].to_numpy() - truth["teff"].to_numpy()) < np.fmax(
        300.0, 5.0 * table["e_Teff"].to_numpy()
    )
    simulated = {
        "single_m_dwarfs_snr_5": single,
        "single_m_dwarfs_snr_5_intact": single & intact,
        "single_m_dwarfs_snr_5_intact_teff_right": single & intact & right,
        "single_m_dwarfs_snr_5_teff_wrong": single & ~right,
        "exposures_that_failed": ~intact,
        "k_dwarfs_snr_5": (truth["kind"] == "kdwarf").to_numpy() & intact & bright,
        "giants": (truth["kind"] == "giant").to_numpy() & intact,
    }
    result: dict[str, object] = {
        "trained_on": trained.metrics["counts"],
        "population": trained.metrics["population"],
        "hot_stars": count_flagged(fitted["hot"], fitted=True),
        "simulated": {
            name: count_flagged(table[rows], fitted=True) for name, rows in simulated.items()
        },
    }
    for name in ("real", "real without classes"):
        rows_of = group_real(real, fitted[name])
        result[name.replace(" ", "_")] = {
            group: count_flagged(fitted[name][rows], fitted=True) for group, rows in rows_of.items()
        }
    return result


def fit_all(spectra, trained) -> pd.DataFrame:
    """The catalogue rows of spectra, in their order."""
    table = jm.fit(spectra, trained.model, keep_spectra=False).to_pandas()
    assert len(table) == len(spectra)
    return table


def can_be_fitted(spectrum, model) -> bool:
    """Whether a fit takes a spectrum: one of the real ones has no flux."""
    try:
        Fitter(model).require(spectrum)
    except RejectedInput:
        return False
    return True


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
    parser.add_argument("--n", type=int, default=700)
    parser.add_argument("--seeds", type=int, nargs="*", default=[11, 12, 13])
    parser.add_argument("--n-train", type=int, default=1200)
    parser.add_argument("--n-test", type=int, default=900)
    parser.add_argument("--seed", type=int, default=14)
    options = parser.parse_args()
    data = Path(os.environ["JAXMDWARF_TEST_DATA"])
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "kind.json"
    result: dict[str, object] = json.loads(file.read_text()) if file.exists() else {}

    def keep(**parts: object) -> None:
        result.update(parts)
        file.write_text(json.dumps(result, indent=1) + "\n")

    keep(hot_stars=count_flagged(jm.measure(make_hot_stars())), real=judge_real(data))
    simulated = {}
    for seed in options.seeds:
        simulated[seed] = judge_simulation(options.n, seed)
        keep(**{f"simulated_seed_{seed}": simulated[seed]})
    if simulated:
        keep(activity_of_all_seeds=pool_activity(simulated.values()))
    if options.n_train:
        keep(fits=judge_fits(data, options.n_train, options.n_test, options.seed))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
