"""The value-added catalogue at the size of the paper's survey, and larger lists beside it.

    python benchmarks/bench_catalogue.py [--n 500000] [--list 10000000] [--only CASE ...] [--save]

A survey of `n` spectra with known scatter of repeats is made, and a list of `list` stars with
identifiers, positions of Gaia's epoch and proper motions, as Parquet; a tenth of the stars of the
survey are in it. Timed are, each in a process of its own so that its peak of memory is known: stars
and precision and total errors ("repeats"); cuts and flags ("cuts"); reading the list and matching
it by position, and by identifier ("position", "identifier"); each format written ("formats", with
its size); and all of it together, from a table of fits to a catalogue as FITS ("command"). --save
keeps the numbers in benchmarks/results.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from results_io import find_peak_memory, save_result

from jaxmdwarf.catalogue.columns import COLUMNS, TABLE_1, order_columns
from jaxmdwarf.catalogue.crossmatch import StarList, choose_columns, find_listed
from jaxmdwarf.catalogue.cuts import CutConfig, apply_cuts, mark_rows
from jaxmdwarf.catalogue.repeats import add_total_errors
from jaxmdwarf.catalogue.stars import group_stars
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.tables import read_tables, write_table
from jaxmdwarf.workflows.cataloguing import catalogue_files

FORMATS = ("fits", "parquet", "vot", "mrt")
PRECISION = {"RV": (66.7, 3.03), "Teff": (433.0, 17.7), "Logg": (0.55, 0.015), "M_H": (1.0, 0.04)}
ASKED = {
    "repeats": 10.0,
    "cuts": 5.0,
    "position": 60.0,
    "identifier": 60.0,
    "formats": 60.0,
    "command": None,
}
"""Seconds that 500,000 rows and 10,000,000 stars may take on two cores."""
GAIA_YEARS = 16.0


def make_survey(n, seed=0):
    """Fits of `n` spectra, with every column that `jaxmdwarf fit --gaia` writes."""
    rng = np.random.default_rng(seed)
    n_star = int(n / 1.19)  # 507,513 spectra of 426,008 stars
    star = np.concatenate([np.arange(n_star), rng.integers(0, n_star // 6, n - n_star)])
    star = star[rng.permutation(n)]
    snr = np.clip(np.exp(rng.normal(3.0, 0.8, n)), 5, 400)
    ra = rng.uniform(0, 360, n_star)
    dec = np.degrees(np.arcsin(rng.uniform(-0.17, 0.87, n_star)))
    table = pd.DataFrame({"ID": [f"J{one:09d}.00+000000.0" for one in star]})
    table["obsid"], table["source_id"] = np.arange(n) + 100_000_000, 10**18 + star
    table["RA"], table["Dec"] = ra[star], dec[star]
    table["SNRr"], table["SNRi"] = snr, 1.3 * snr
    for name, middle in (("RV", 0.0), ("Teff", 3600.0), ("Logg", 4.9), ("M_H", -0.2)):
        a, b = PRECISION[name]
        table[name] = middle + rng.normal(0, 8 * b, n_star)[star]
        table[name] += (a / snr + b) * rng.normal(size=n)
        table[f"e_{name}"] = 0.5 * a / snr
    for name, column in COLUMNS.items():
        if name in table or name in ("star", "n_visits", "VBFlag", "VBTables"):
            continue
        values = rng.normal(1.0, 0.3, n)
        if column.kind == "text":
            table[name] = rng.choice(["M0", "M1", "M2"], n) if name == "Subclass" else "STAR"
        elif column.kind == "int":
            table[name] = np.zeros(n, np.int32)
        elif column.kind == "bool":
            table[name] = np.ones(n, bool)
        else:
            table[name] = values
    table["path"] = [f"survey/{one % 997:03d}/spec-{one:09d}.fits.gz" for one in range(n)]
    table["Age"] = table["Age_mean"] = rng.uniform(0.5, 12, n_star)[star]
    return table[order_columns(table.columns)]


def make_list(survey, n, path, seed=1):
    """`n` stars of Gaia's epoch, a tenth of those of the survey among them, as Parquet."""
    rng = np.random.default_rng(seed)
    listed = survey.drop_duplicates("source_id").sample(frac=0.1, random_state=seed)
    n_other = n - len(listed)
    motion = rng.normal(0, 30, (2, n))
    ra = np.concatenate([listed["RA"], rng.uniform(0, 360, n_other)])
    dec = np.concatenate([listed["Dec"], np.degrees(np.arcsin(rng.uniform(-1, 1, n_other)))])
    stars = pd.DataFrame(
        {
            "source_id": np.concatenate([listed["source_id"], 5 * 10**18 + np.arange(n_other)]),
            "ra": ra + motion[0] * GAIA_YEARS / 3.6e6 / np.cos(np.radians(dec)),
            "dec": np.clip(dec + motion[1] * GAIA_YEARS / 3.6e6, -90, 90),
            "pmra": motion[0],
            "pmdec": motion[1],
        }
    )
    stars.iloc[rng.permutation(n)].to_parquet(path, index=False)
    return int(survey["source_id"].isin(listed["source_id"]).sum())


def time_repeats(survey, folder):
    began = time.perf_counter()
    star = group_stars(survey)
    grouped = time.perf_counter()
    _, precisions, _ = add_total_errors(survey, star)
    ended = time.perf_counter()
    by_place = group_stars(survey.drop(columns="source_id"))
    found = {
        name: {
            "a": round(one.a, 4),
            "e_a": round(one.e_a, 4),
            "b": round(one.b, 5),
            "e_b": round(one.e_b, 5),
            "injected": PRECISION[name],
        }
        for name, one in precisions.items()
        if name in PRECISION
    }
    return {
        "seconds": ended - began,
        "grouping_s": grouped - began,
        "grouping_by_position_s": time.perf_counter() - ended,
        "stars": int(star.max()) + 1,
        "stars_by_position": int(by_place.max()) + 1,
        "found": found,
    }


def time_cuts(survey, folder):
    began = time.perf_counter()
    cuts = apply_cuts(survey, CutConfig(logg_bounds=(4.0, 6.0)))
    mark_rows(survey, cuts)
    return {
        "seconds": time.perf_counter() - began,
        "removed": {one.name: one.removed for one in cuts.steps},
    }


def time_position(survey, folder):
    return time_match(survey.drop(columns="source_id"), folder)


def time_identifier(survey, folder):
    return time_match(survey, folder)


def time_match(survey, folder):
    began = time.perf_counter()
    tables = read_tables(folder / "list.parquet", choose=choose_columns)
    read = time.perf_counter()
    found = find_listed(survey, StarList("list", tables))
    return {
        "seconds": time.perf_counter() - began,
        "reading_s": read - began,
        "by": found.how,
        "matched": int(found.rows.sum()),
    }


def time_formats(survey, folder):
    table = survey.assign(VBFlag=np.int32(0), star=np.int32(0), n_visits=np.int32(1))
    table = table[order_columns(table.columns)]
    assert set(TABLE_1) <= set(table.columns)
    result = {"columns": len(table.columns), "seconds": 0.0}
    for extension in FORMATS:
        path = folder / f"CAT.{extension}"
        began = time.perf_counter()
        write_table(table, path, provenance=gather_provenance())
        seconds = time.perf_counter() - began
        size = path.stat().st_size
        # What the page cache still holds back is part of writing.
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        result[extension] = {"seconds": round(seconds, 2), "megabytes": round(size / 1e6)}
        result["seconds"] += seconds
        path.unlink()
    return result


def time_command(survey, folder):
    began = time.perf_counter()
    made = catalogue_files(
        [folder / "survey.parquet"], folder / "CAT.fits", binaries=[folder / "list.parquet"]
    )
    return {"seconds": time.perf_counter() - began, "matched": made["matched"]["list"]}


CASES = {name: globals()[f"time_{name}"] for name in ASKED}


def run_case(name, folder):
    """In this process: numbers of one case, with the peak of memory that it added to."""
    survey = pd.read_parquet(folder / "survey.parquet")
    before = find_peak_memory()
    result = CASES[name](survey, folder)
    result["peak_gib"] = find_peak_memory() / 2**30
    result["peak_before_gib"] = before / 2**30
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500_000, help="spectra of the survey")
    parser.add_argument("--list", type=int, default=10_000_000, help="stars of the list")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--save", action="store_true", help="keep the numbers")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of a process that runs one case
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(run_case(options.only[0], Path(options.folder))))
        return
    results = {"n": options.n, "list": options.list}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        survey = make_survey(options.n)
        survey.to_parquet(folder / "survey.parquet", index=False)
        if {"position", "identifier", "command"} & set(options.only):
            results["listed"] = make_list(survey, options.list, folder / "list.parquet")
        del survey
        for case in options.only:
            command = [sys.executable, __file__, "--only", case, "--folder", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[case] = json.loads(done.stdout.splitlines()[-1])
            spent = results[case]
            spent = {key: round(v, 2) if isinstance(v, float) else v for key, v in spent.items()}
            results[case] = {**spent, "asked_s": ASKED[case]}
            print(f"{case}: {json.dumps(results[case])}", flush=True)
    if options.save:
        print(save_result("catalogue", results))


if __name__ == "__main__":
    main()
