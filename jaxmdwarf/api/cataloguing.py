"""From fits to the value-added catalogue, in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxmdwarf.api.results import Fits
from jaxmdwarf.catalogue.crossmatch import StarList
from jaxmdwarf.catalogue.cuts import write_bounds
from jaxmdwarf.catalogue.value_added import CatalogueConfig
from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.json_files import plain_json
from jaxmdwarf.io.tables import build_astropy_table, build_frame, read_table
from jaxmdwarf.quality import write_flag_cards
from jaxmdwarf.workflows.cataloguing import catalogue_tables, describe_others, read_lists

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table


def build_catalogue(
    fits: Any,
    *,
    gaia: Any = None,
    variables: Any = (),
    binaries: Any = (),
    ages: Any = None,
    paper_cuts: bool | None = None,
    photometry: bool | None = None,
    config: CatalogueConfig | None = None,
) -> Table:
    """Make the value-added catalogue: total errors, cuts as flags, variables, binaries, ages.

    Parameters
    ----------
    fits : table, or a list of tables
        Results of `jaxmdwarf.fit`, astropy or pandas tables, or paths.
    gaia, ages : table, optional
        Astropy, pandas, or a path.
    variables, binaries : list of paths, or mapping of name to table
        Lists of stars.
    paper_cuts : bool, optional
        Remove rows that fail a cut; that of `config` by default.
    photometry : bool, optional
        Let photometry and parallaxes speak for Teff and log g beside the spectra (Mann et al. 2015,
        2019); what `config` says by default, which is not.
    config : CatalogueConfig, optional
        Of `jaxmdwarf.catalogue.value_added`.

    Returns
    -------
    astropy.table.Table
        With units and descriptions. ``meta["catalogue"]`` has counts, waterfall, precision of
        repeats, and matches; ``meta["rejects"]`` lists ``(path, reason)`` of rows that are not in
        it; ``meta["FLAG0"]`` and so on say what the flags mean.

    Raises
    ------
    UsageError, FormatError, WorkFailed
        As `jaxmdwarf.workflows.cataloguing.catalogue_files`.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"RA": [10.0, 20.0], "Dec": 5.0, "SNRr": 30.0, "e_Teff": 25.0})
    >>> table = build_catalogue(rows.assign(Teff=[3500.0, 4400.0]), paper_cuts=True)
    >>> len(table), table.meta["rejects"]
    (1, [('', 'Teff above 4300 K')])
    """
    config = config or CatalogueConfig()
    if paper_cuts is not None:
        config = replace(config, paper_cuts=paper_cuts)
    if photometry is not None:
        config = replace(config, photometry=photometry)
    tables = [_read(one) for one in (fits if isinstance(fits, list | tuple) else [fits])]
    made, rejects, _ = catalogue_tables(
        tables,
        config,
        gaia=None if gaia is None else _read(gaia),
        variables=_read_lists(variables),
        binaries=_read_lists(binaries),
        ages=None if ages is None else _read(ages),
    )
    table = build_astropy_table(made.table, describe_others(tables))
    table.meta.update(write_flag_cards())
    table.meta["catalogue"] = plain_json(made.metrics())
    table.meta["rejects"] = [(one.path, one.reason) for one in rejects]
    return table


def _read(table: Any) -> pd.DataFrame:
    import pandas as pd

    if isinstance(table, str | os.PathLike):
        return read_table(table)
    if isinstance(table, Fits):
        frame = table.to_pandas()
        bounds = write_bounds(table.model.label_space)
        frame.attrs["provenance"] = {"label_bounds": bounds}
        return frame
    if isinstance(table, pd.DataFrame):
        return table
    if hasattr(table, "colnames"):
        return build_frame(table)
    raise UsageError(
        f"{type(table).__name__} is no table.", "give a path, an astropy table, or a pandas one."
    )


def _read_lists(lists: Any) -> Sequence[StarList]:
    if isinstance(lists, Mapping):
        return [StarList(str(name), [_read(table)]) for name, table in lists.items()]
    if isinstance(lists, str | os.PathLike):
        lists = [lists]
    if not all(isinstance(one, str | os.PathLike) for one in lists):
        raise UsageError(
            "lists of stars have no names.", 'give a mapping: {"sb9": table}, or a list of paths.'
        )
    return read_lists(lists)
