"""What a catalogue shows: positions, Kiel and H-R diagrams, activity, types, precision."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxmdwarf.catalogue.counterparts import choose_rows
from jaxmdwarf.catalogue.names import find_column
from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.measure.spectral_type import read_subtypes
from jaxmdwarf.preprocess.selection import absolute_magnitude
from jaxmdwarf.workflows.progress import Progress, Silent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from jaxmdwarf.catalogue.repeats import Precision
    from jaxmdwarf.catalogue.value_added import ValueAdded
    from jaxmdwarf.plots.hr import GaiaSample
    from jaxmdwarf.plots.kiel import Isochrones

CAPTIONS: dict[str, str] = {
    "precision": "Scatter of repeat visits of a star in bins of S/N, and the fitted curve (figure "
    "10 of the paper).",
    "sky": "Where the stars are, in Galactic coordinates (figure 1 of the paper).",
    "kiel": "Gravity against temperature of the good spectra of highest S/N of each star; lines "
    "are main sequences of one metallicity each (figure 9 of the paper).",
    "hr": "Absolute magnitude by Gaia's parallax against colour, without extinction, of stars in "
    "no list of variables or binaries whose parallax is known to 20 per cent; beside it their "
    "apparent magnitudes and distances (figure 11 of the paper).",
    "hr_active": "The same for the stars with Halpha in emission, on percentiles of all stars in "
    "bins of colour (figure 12 of the paper).",
    "types": "Spectral types from TiO5 beside those of the survey's pipeline (figure 13 of the "
    "paper).",
}
"""Figures of a catalogue by name, in the order in which they are shown."""

LEAST_PARALLAX_SIGMA = 5.0
"""Parallaxes over their errors from which on 1 / parallax is a distance (to 20 per cent)."""


def tabulated_lines(paths: Sequence[str | os.PathLike[str]]) -> Isochrones | None:
    """Isochrones of files for the Kiel diagram; None without files."""
    if not paths:
        return None
    from jaxmdwarf.plots.kiel import tabulated_isochrones

    return tabulated_isochrones(read_isochrones(paths))


def write_figures(
    paths: Mapping[str, Path],
    made: ValueAdded,
    *,
    isochrones: Isochrones | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write the figures for which a catalogue has the columns; of others none stays.

    Parameters
    ----------
    paths : mapping of str to Path
        By the names of `CAPTIONS`. What an earlier catalogue left there is removed where this one
        has nothing to show.
    made : ValueAdded
    isochrones : Isochrones, optional
    progress : Progress, optional

    Returns
    -------
    list of Path
        What was written.
    """
    from jaxmdwarf.plots.style import render_png

    figures = plan_figures(made.table, made.precisions, isochrones=isochrones)
    written = []
    with (progress or Silent()).stage("figures", float(len(figures)), unit="figures") as task:
        for name, path in paths.items():
            if name not in figures:
                path.unlink(missing_ok=True)
                continue
            with write_atomically(path) as temporary:
                temporary.write_bytes(render_png(figures[name]()))
            written.append(path)
            task.advance(note=path.name)
    return written


def plan_figures(
    table: pd.DataFrame,
    precisions: Mapping[str, Precision],
    *,
    isochrones: Isochrones | None = None,
) -> dict[str, Callable[[], Figure]]:
    """What draws each figure that has something to show.

    Parameters
    ----------
    table : DataFrame
        A value-added catalogue.
    precisions : mapping of str to Precision
        By column.
    isochrones : Isochrones, optional
        See `jaxmdwarf.plots.kiel.plot_kiel`.

    Returns
    -------
    dict
        By the names of `CAPTIONS`. Each star counts once: with the good spectrum of highest S/N,
        or on the sky with its first. Of types each spectrum counts.
    """
    from jaxmdwarf.plots.hr import plot_active_hr, plot_hr
    from jaxmdwarf.plots.kiel import KielSample, plot_kiel
    from jaxmdwarf.plots.precision import plot_precision
    from jaxmdwarf.plots.sky import plot_sky
    from jaxmdwarf.plots.types import plot_types

    planned: dict[str, Callable[[], Figure]] = {}
    if precisions:
        planned["precision"] = lambda: plot_precision(precisions)
    first = table[~table["star"].duplicated().to_numpy()]
    ra_deg, dec_deg = (read_numbers(first, name) for name in ("RA", "Dec"))
    if np.isfinite(ra_deg + dec_deg).any():
        planned["sky"] = lambda: plot_sky(ra_deg, dec_deg)
    stars = table.iloc[_choose_spectra(table)]
    kiel = KielSample(*(read_numbers(stars, name) for name in ("Teff", "Logg", "M_H")))
    if _are_known(*kiel):
        planned["kiel"] = lambda: plot_kiel({"catalogue": kiel}, isochrones=isochrones)
    single = stars[~(read_numbers(stars, "VBFlag") > 0)]
    hr, distance_pc = read_gaia(single, read_numbers(single, "M_H"))
    if _are_known(*hr):
        planned["hr"] = lambda: plot_hr(hr, _read(single, "Gmag"), distance_pc)
        active = read_numbers(single, "Activity") == 1
        if _are_known(*(column[active] for column in hr)):
            planned["hr_active"] = lambda: plot_active_hr(hr, active)
    if "Subclass" in table and "SpT" in table:
        subclass, spt = read_subtypes(table["Subclass"]), read_numbers(table, "SpT")
        if _are_known(subclass, spt):
            planned["types"] = lambda: plot_types(subclass, spt)
    return planned


def read_gaia(table: pd.DataFrame, mh: np.ndarray) -> tuple[GaiaSample, np.ndarray]:
    """Colour and absolute magnitude of the stars of a table, and their distances.

    Parameters
    ----------
    table : DataFrame
        With Gaia's magnitudes and parallaxes (mas), under any of the names that are known.
    mh : (n,)
        Metallicity by which they will be coloured, dex.

    Returns
    -------
    sample : GaiaSample
        NaN without photometry, or without a parallax above 0 and five times its error.
    distance_pc : (n,)
        1 / parallax.
    """
    from jaxmdwarf.plots.hr import GaiaSample

    parallax = _read(table, "Plx")
    doubtful = parallax < LEAST_PARALLAX_SIGMA * _read(table, "e_Plx")
    parallax = np.where((parallax > 0) & ~doubtful, parallax, np.nan)
    sample = GaiaSample(
        _read(table, "BPmag") - _read(table, "RPmag"),
        absolute_magnitude(_read(table, "Gmag"), parallax),
        mh,
    )
    return sample, 1000.0 / parallax


def _read(table: pd.DataFrame, column: str) -> np.ndarray:
    return read_numbers(table, find_column(table, column))


def _choose_spectra(table: pd.DataFrame) -> np.ndarray:
    """Rows of the good spectrum of highest S/N of each star that has a good one."""
    star = np.where(table["good"].to_numpy(bool), table["star"].to_numpy(int), -1)
    rows = choose_rows(star, int(star.max(initial=-1)) + 1, read_numbers(table, "SNRr"))
    return rows[rows >= 0]


def _are_known(*columns: np.ndarray) -> bool:
    """Whether some row has all of them."""
    return bool(np.isfinite(np.stack(columns)).all(axis=0).any())
