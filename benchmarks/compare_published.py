"""Published tables against each other: does the comparison give what their authors state?

Usage: python benchmarks/compare_published.py FOLDER [--out birky2020.json]

FOLDER holds mann15.stars.csv, gaidos14.csv and birky2020_safe_minus_holdout.csv.gz as published.
Birky et al. (2020, ApJ 892, 31) take the place of the catalogue: their labels against those of Mann
et al. (2015), on whose scale they were trained, of Gaidos et al. (2014), and of the pipeline of
APOGEE DR14, which their table has beside their own. Stars are matched at J2000 with their motions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from jaxmdwarf.io.json_files import write_json
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.workflows.agreement_tables import (
    agreement_markdown,
    agreement_metrics,
    list_all_agreement,
)
from jaxmdwarf.workflows.validating import ValidationConfig, validate_tables

STATED = {
    "cross_validation": {"teff": 77.0, "mh": 0.09},
    "pipeline": "temperatures of the APOGEE pipeline are systematically higher than those of The "
    "Cannon, its metallicities lower",
    "source": "Birky et al. (2020), abstract and summary",
}
"""What the authors say: scatter about Mann et al. in cross-validation over 87 stars, and a sign."""

BIRKY = "birky2020_safe_minus_holdout.csv.gz"


def as_catalogue(birky: pd.DataFrame) -> pd.DataFrame:
    """Columns of the table under the names that our catalogues have."""
    names = {"RA": "RA", "DEC": "Dec", "PMRA": "pmRA", "PMDEC": "pmDE", "SNR": "SNRr"}
    labels = {"TEFF": "Teff", "FE_H": "M_H"}
    return birky.rename(columns={**names, **labels})[[*names.values(), *labels.values()]]


def pipeline_of(birky: pd.DataFrame) -> pd.DataFrame:
    """The labels of the APOGEE pipeline of the same table, as a reference."""
    return birky[["RA", "DEC", "TEFF_APOGEE", "M_H_APOGEE"]]


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Compare, print the table, write the numbers; returns them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    birky = read_table(options.folder / BIRKY)
    catalogue = as_catalogue(birky)
    results = {
        "Mann et al. (2015)": validate_tables(
            catalogue, read_table(options.folder / "mann15.stars.csv")
        ),
        "Gaidos et al. (2014)": validate_tables(
            catalogue, read_table(options.folder / "gaidos14.csv")
        ),
        "APOGEE DR14 pipeline": validate_tables(
            catalogue, pipeline_of(birky), ValidationConfig(kind="other", radius_arcsec=0.1)
        ),
    }
    rows = list_all_agreement(results)
    print(agreement_markdown(rows))
    found = {
        "stated": STATED,
        "counts": {title: one.counts for title, one in results.items()},
        "agreement": [row for row in agreement_metrics(rows) if row["by"] != "snr"],
    }
    if options.out is not None:
        write_json(options.out, found)
    return found


if __name__ == "__main__":
    main()
