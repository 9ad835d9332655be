"""Local copies of published lists of variable stars and binaries, from VizieR by astroquery."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxmdwarf.errors import UsageError, WorkFailed
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.tables import build_frame, write_table
from jaxmdwarf.workflows.cataloguing import describe_others
from jaxmdwarf.workflows.outputs import require_output
from jaxmdwarf.workflows.progress import Progress, Silent


class Published(NamedTuple):
    """A list of the paper's section 4.5.

    Parameters
    ----------
    kind : str
        "variables" or "binaries": the option of `jaxmdwarf catalogue` that it is for.
    source : str
        Catalogue or table of VizieR.
    about : str
    columns : tuple of str
        That are asked for; empty for those that VizieR gives by default.
    constraints : tuple of (column, constraint)
        As VizieR writes them.
    """

    kind: str
    source: str
    about: str
    columns: tuple[str, ...] = ()
    constraints: tuple[tuple[str, str], ...] = ()


LISTS: dict[str, Published] = {
    "gaia_variables": Published(
        "variables",
        "I/358/varisum",
        "Gaia DR3 variability summary",
        ("Source", "RA_ICRS", "DE_ICRS"),
    ),
    "gaia_eclipsing": Published(
        "binaries", "I/358/veb", "Gaia DR3 eclipsing binaries", ("Source", "RA_ICRS", "DE_ICRS")
    ),
    "gaia_non_single": Published("binaries", "I/357", "Gaia DR3 non-single stars"),
    "medan2023": Published("binaries", "J/AJ/166/218", "Medan & Lepine (2023), within 200 pc"),
    "kounkel2021": Published(
        "binaries",
        "J/AJ/162/184/table1",
        "Kounkel et al. (2021), SB2 of APOGEE",
        constraints=(("SBn", ">=2"),),
    ),
    "sb9": Published("binaries", "B/sb9/main", "Pourbaix et al. (2004), SB9"),
    "zheng2023": Published(
        "binaries", "J/ApJS/266/18/table5", "Zheng et al. (2023), SB2 of LAMOST MRS"
    ),
    "kovalev2024": Published(
        "binaries", "J/MNRAS/527/521/tableb1", "Kovalev et al. (2024), SB2 of LAMOST MRS"
    ),
}
"""By the name of the copy. DEBCat is not at VizieR."""


def fetch_lists(
    names: Sequence[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write copies of published lists, ``<name>.parquet`` each.

    Parameters
    ----------
    names : sequence of str
        Of `LISTS`.
    out : path
        Folder.
    overwrite : bool
        Whether copies that are there may be replaced.
    command : sequence of str, optional
        Command line for the provenance.
    progress : Progress, optional

    Returns
    -------
    dict
        Rows by name, and the folder.

    Raises
    ------
    UsageError
        If a name is unknown, astroquery is not installed, or a copy is there already.
    WorkFailed
        If VizieR cannot be reached, or has no such table. Copies that were written stay.

    Notes
    -----
    A list with several tables becomes one with the rows of all.
    """
    progress = progress or Silent()
    unknown = [name for name in names if name not in LISTS]
    if unknown or not names:
        what = f"there is no list {unknown[0]!r}." if unknown else "no lists were named."
        raise UsageError(what, f"name some of {', '.join(LISTS)}.")
    paths = {name: Path(out) / f"{name}.parquet" for name in names}
    for path in paths.values():
        require_output(path, overwrite=overwrite)
    vizier = _import_vizier()
    rows = {}
    with progress.stage("fetching", float(len(paths)), unit="lists") as task:
        for name, path in paths.items():
            rows[name] = _fetch(vizier, LISTS[name], path, command)
            task.advance(note=f"{name}: {rows[name]} rows")
    return {**rows, "folder": os.fspath(out)}


def _import_vizier() -> Any:
    try:
        from astroquery.vizier import Vizier
    except ImportError as error:
        raise UsageError(
            f"fetching needs the package astroquery, which cannot be imported: {error}.",
            "pip install 'jaxmdwarf[fetch]', or download the lists from VizieR by hand.",
        ) from None
    return Vizier


def _fetch(vizier: Any, listed: Published, path: Path, command: Sequence[str] | None) -> int:
    import pandas as pd

    query = vizier(
        columns=list(listed.columns) or ["*"],
        column_filters=dict(listed.constraints),
        row_limit=-1,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = list(query.get_catalogs(listed.source))
    except Exception as error:  # of the network, the server, or the answer
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WorkFailed(
            f"{listed.about} ({listed.source}) could not be fetched from VizieR: {line}.",
            "check the network, or download the list by hand and give it to 'jaxmdwarf catalogue'.",
        ) from None
    frames = [build_frame(table) for table in found]
    if not sum(map(len, frames)):
        raise WorkFailed(
            f"VizieR has no rows of {listed.about} ({listed.source}).",
            "look for the list at vizier.cds.unistra.fr and download it by hand.",
        )
    whole = pd.concat(frames, ignore_index=True, sort=False)
    for name in whole.columns:
        if whole[name].dtype == object:
            whole[name] = whole[name].fillna("").astype(str)
    provenance = gather_provenance(
        command=command, notes={"source": f"VizieR {listed.source}", "about": listed.about}
    )
    write_table(whole, path, columns=describe_others(frames), provenance=provenance)
    return len(whole)
