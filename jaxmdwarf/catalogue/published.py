"""Published tables of M-dwarf labels: which columns hold what, on which scale, at which epoch.

One entry a table. Whatever an entry does not say is guessed from the names of columns, as for any
other table (`jaxmdwarf.catalogue.names`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.names import list_quantities
from jaxmdwarf.catalogue.positions import GAIA_EPOCH, J2000
from jaxmdwarf.catalogue.quantities import read_numbers
from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.main_sequence import surface_gravity

if TYPE_CHECKING:
    import pandas as pd

_GRAVITY = "log g of mass and radius"


@dataclass(frozen=True)
class PublishedTable:
    """How to read one published table.

    Parameters
    ----------
    name : str
        For options.
    title : str
        For figures and tables: authors and year.
    source : str
        Where it was published, and under which name its columns are those below.
    columns : tuple of (quantity, column)
        Quantities as `jaxmdwarf.catalogue.names.list_quantities` has them, ``e_`` in front for
        errors. What the table at hand lacks is left out.
    signs : tuple of str
        Columns by which it is recognised: no other table here has all of them. Empty for tables
        that must be named.
    epoch_yr : float, optional
        Of the positions, Julian years.
    motion_unit_masyr : float
        Unit of the proper motions in mas/yr.
    bad_bits : tuple of (column, mask)
        Rows with one of these bits set do not count.
    missing : tuple of (column, value)
        Numbers that stand for none, though a star could have them.
    mass_radius : tuple of str
        Columns of mass and radius in solar units, of which log g follows where none is given.
    notes : tuple of str
        What a reader should know of the scale of its labels.
    """

    name: str
    title: str
    source: str
    columns: tuple[tuple[str, str], ...] = ()
    signs: tuple[str, ...] = ()
    epoch_yr: float | None = None
    motion_unit_masyr: float = 1.0
    bad_bits: tuple[tuple[str, int], ...] = ()
    missing: tuple[tuple[str, float], ...] = ()
    mass_radius: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = set(list_quantities())
        for quantity, _ in self.columns:
            if quantity.removeprefix("e_") not in known:
                raise UsageError(f"{quantity!r} of {self.name} is no quantity.")


class PreparedTable(NamedTuple):
    """A published table, ready to be compared.

    Parameters
    ----------
    table : DataFrame
        Without bad rows; proper motions in mas/yr, numbers that stand for none missing.
    columns : dict
        Column by quantity, of those that are there.
    epoch_yr : float or None
        Of the positions.
    notes : tuple of str
    """

    table: pd.DataFrame
    columns: dict[str, str]
    epoch_yr: float | None
    notes: tuple[str, ...]


def _errors(*names: str) -> tuple[tuple[str, str], ...]:
    """Columns of labels and of their errors as VizieR names them: ``Teff`` and ``e_Teff``."""
    quantities = {"Teff": "teff", "logg": "logg", "[Fe/H]": "mh", "[M/H]": "mh"}
    pairs = [(quantities[name], name) for name in names]
    return (*pairs, *((f"e_{quantity}", f"e_{name}") for quantity, name in pairs))


_IRON = "[Fe/H] stands for [M/H]"
_LAMOST_COLUMNS = (
    "the names of its columns were not at hand: they are guessed, and --columns corrects them"
)

PUBLISHED: dict[str, PublishedTable] = {
    one.name: one
    for one in (
        PublishedTable(
            name="mann2015",
            title="Mann et al. (2015)",
            source="ApJ 804, 64, with the erratum; VizieR J/ApJ/804/64",
            columns=(*_errors("Teff", "[Fe/H]"), ("ra", "RAJ2000"), ("dec", "DEJ2000")),
            signs=("Fbol", "Teff0", "[Fe/H]", "CNS3"),
            epoch_yr=J2000,
            mass_radius=("M", "R"),
            notes=(
                "Teff is calibrated on interferometric radii, [Fe/H] on FGK companions",
                _IRON,
            ),
        ),
        PublishedTable(
            name="gaidos2014",
            title="Gaidos et al. (2014)",
            source="MNRAS 443, 2561 (CONCH-SHELL); VizieR J/MNRAS/443/2561",
            columns=(
                *_errors("Teff", "[Fe/H]"),
                ("ra", "RAJ2000"),
                ("dec", "DEJ2000"),
                ("pmra", "pmRA"),
                ("pmdec", "pmDE"),
            ),
            signs=("n_Teff", "EWBaII", "[Fe/H]"),
            epoch_yr=J2000,
            mass_radius=("M", "R"),
            notes=(
                "Teff comes from fits of PHOENIX spectra (n_Teff PHX) or from V - J (n_Teff V-J), "
                "mass and radius from Teff",
                _IRON,
            ),
        ),
        PublishedTable(
            name="lepine2013",
            title="Lépine et al. (2013)",
            source="AJ 145, 102; VizieR J/AJ/145/102",
            columns=(
                ("teff", "Teff"),
                ("logg", "logg"),
                ("ra", "RAJ2000"),
                ("dec", "DEJ2000"),
                ("pmra", "pmRA"),
                ("pmdec", "pmDE"),
            ),
            signs=("zeta", "Mst", "VO1", "TiO6"),
            epoch_yr=J2000,
            motion_unit_masyr=1000.0,
            missing=(("logg", 0.0), ("Teff", 0.0)),
            notes=(
                "Teff and log g are those of the best PHOENIX spectrum, in steps of its grid; "
                "zeta, which it has in place of [M/H], is not compared",
            ),
        ),
        PublishedTable(
            name="rajpurohit2018",
            title="Rajpurohit et al. (2018a)",
            source="A&A 620, A180; VizieR J/A+A/620/A180",
            columns=(
                ("teff", "Teff"),
                ("logg", "logg"),
                ("mh", "[M/H]"),
                ("ra", "_RA"),
                ("dec", "_DE"),
            ),
            signs=("TeffP", "loggP", "[M/H]P"),
            epoch_yr=J2000,
            notes=("labels of BT-Settl, in steps of its grid",),
        ),
        PublishedTable(
            name="passegger2018",
            title="Passegger et al. (2018)",
            source="A&A 615, A6; VizieR J/A+A/615/A6",
            columns=(
                ("teff", "Teff"),
                ("logg", "logg"),
                ("mh", "[Fe/H]"),
                # _RAJ2000 and _DEJ2000 were precessed from J2016 as from an equinox: 12' off.
                ("ra", "RAJ2016"),
                ("dec", "DEJ2016"),
            ),
            signs=("f_CaII", "RAJ2016", "Karmn"),
            epoch_yr=GAIA_EPOCH,
            notes=("log g follows from Teff and [Fe/H] along isochrones", _IRON),
        ),
        PublishedTable(
            name="passegger2019",
            title="Passegger et al. (2019)",
            source="A&A 627, A161; VizieR J/A+A/627/A161, table of the stars",
            columns=(("ra", "RAICRS"), ("dec", "DEICRS")),
            signs=("factive", "Karmn", "RAICRS"),
            epoch_yr=GAIA_EPOCH,
            notes=(
                "the table of the stars has no labels: join it by Karmn with that of the "
                "parameters, of which labels are guessed from names, or named with --columns",
            ),
        ),
        PublishedTable(
            name="schweitzer2019",
            title="Schweitzer et al. (2019)",
            source="A&A 625, A68; VizieR J/A+A/625/A68",
            columns=(*_errors("Teff", "logg", "[Fe/H]"), ("ra", "_RA"), ("dec", "_DE")),
            signs=("Teff_cif", "loggc", "MassMR"),
            epoch_yr=J2000,
            notes=(
                "spectroscopic labels; Teff_cif is photometric, loggc that of mass and radius",
                _IRON,
            ),
        ),
        PublishedTable(
            name="birky2020",
            title="Birky et al. (2020)",
            source="ApJ 892, 31; the authors' table",
            columns=(
                ("teff", "TEFF"),
                ("mh", "FE_H"),
                ("rv", "RV_APOGEE"),
                ("e_rv", "RV_APOGEE_ERR"),
                ("ra", "RA"),
                ("dec", "DEC"),
                ("pmra", "PMRA"),
                ("pmdec", "PMDEC"),
            ),
            signs=("TEFF", "FE_H", "TEFF_APOGEE", "M_H_APOGEE"),
            # Positions of 2MASS, which observed from 1997 to 2001.
            epoch_yr=J2000,
            notes=(
                "labels of The Cannon on the scale of Mann et al. (2015), not those of the APOGEE "
                "pipeline beside them",
                _IRON,
            ),
        ),
        PublishedTable(
            name="apogee_dr17",
            title="APOGEE DR17",
            source="Abdurro'uf et al. (2022, ApJS 259, 35): allStar, HDU 1",
            columns=(
                ("teff", "TEFF_SPEC"),
                ("e_teff", "TEFF_ERR"),
                ("logg", "LOGG"),
                ("e_logg", "LOGG_ERR"),
                ("mh", "M_H"),
                ("e_mh", "M_H_ERR"),
                ("alpha_m", "ALPHA_M"),
                ("e_alpha_m", "ALPHA_M_ERR"),
                ("rv", "VHELIO_AVG"),
                ("source_id", "GAIAEDR3_SOURCE_ID"),
                ("ra", "RA"),
                ("dec", "DEC"),
                ("pmra", "GAIAEDR3_PMRA"),
                ("pmdec", "GAIAEDR3_PMDEC"),
            ),
            signs=("ASPCAPFLAG", "GAIAEDR3_SOURCE_ID"),
            epoch_yr=J2000,
            bad_bits=(("ASPCAPFLAG", 1 << 23),),
            notes=(
                "Teff is the spectroscopic one, log g the calibrated one, as in section 5.2 of "
                "the paper; rows whose ASPCAPFLAG has STAR_BAD are left out",
            ),
        ),
        PublishedTable(
            name="ulyss2022",
            title="ULySS (Ding et al. 2022)",
            source="arXiv:2204.09200",
            notes=("[Fe/H] of the empirical MILES library stands for [M/H]", _LAMOST_COLUMNS),
        ),
        PublishedTable(
            name="laspm2021",
            title="LASPM (Du et al. 2021)",
            source="LAMOST DR6 and DR7",
            notes=("labels of PHOENIX BT-Settl spectra", _LAMOST_COLUMNS),
        ),
        PublishedTable(
            name="laspm2024",
            title="LASPM (Du et al. 2024)",
            source="arXiv:2410.16730; LAMOST DR10 and DR11",
            notes=("labels of LAMOST templates with labels of Gaia EDR3", _LAMOST_COLUMNS),
        ),
        PublishedTable(
            name="slam2021",
            title="SLAM (Li et al. 2021)",
            source="ApJS 253, 45",
            notes=(
                "Teff and [M/H] on the scale of APOGEE DR16; it has others of BT-Settl beside them",
                _LAMOST_COLUMNS,
            ),
        ),
    )
}
"""Published tables by name. Names of columns are those of VizieR, or of the authors' files."""


def find_published(name: str) -> PublishedTable:
    """The entry of this name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in PUBLISHED:
        raise UsageError(
            f"no published table is called {name!r}.", f"use one of {', '.join(PUBLISHED)}."
        )
    return PUBLISHED[name]


def recognise_table(table: pd.DataFrame) -> PublishedTable | None:
    """The published table whose columns these are; None if they are of no known one.

    Examples
    --------
    >>> import pandas as pd
    >>> recognise_table(pd.DataFrame(columns=["TeffP", "loggP", "[M/H]P", "Teff"])).title
    'Rajpurohit et al. (2018a)'
    >>> recognise_table(pd.DataFrame(columns=["Teff"])) is None
    True
    """
    names = set(map(str, table.columns))
    known = (one for one in PUBLISHED.values() if one.signs)
    return next((one for one in known if names.issuperset(one.signs)), None)


def prepare_published(table: pd.DataFrame, published: PublishedTable) -> PreparedTable:
    """A published table with columns in our units, and without what its authors call bad.

    Parameters
    ----------
    table : DataFrame
    published : PublishedTable

    Raises
    ------
    UsageError
        If the table has none of the columns that are known of it: it is another one.

    Examples
    --------
    >>> import pandas as pd
    >>> star = pd.DataFrame({"Teff": [3500], "logg": [0.0], "pmRA": [0.25]})
    >>> ready = prepare_published(star, PUBLISHED["lepine2013"])
    >>> float(ready.table.loc[0, "pmRA"]), ready.columns["teff"], list(ready.table["logg"].isna())
    (250.0, 'Teff', [True])
    """
    names = set(map(str, table.columns))
    columns = {quantity: name for quantity, name in published.columns if name in names}
    if published.columns and not columns:
        raise UsageError(
            f"the table has no column of {published.title} ({published.source}), such as "
            f"{', '.join(name for _, name in published.columns[:4])}.",
            "leave its kind to be recognised, or name the columns with --columns.",
        )
    notes = [f"the reference is {published.title} ({published.source})", *published.notes]
    ready = table.copy(deep=False)
    ready.attrs = dict(table.attrs)
    for name, value in published.missing:
        if name in names:
            numbers = read_numbers(table, name)
            ready[name] = np.where(numbers == value, np.nan, numbers)
    if published.motion_unit_masyr != 1.0:
        for quantity in ("pmra", "pmdec"):
            if quantity in columns:
                numbers = read_numbers(table, columns[quantity])
                ready[columns[quantity]] = published.motion_unit_masyr * numbers
    if published.mass_radius and names.issuperset(published.mass_radius):
        ready[_GRAVITY] = gravity_of_mass_and_radius(table, *published.mass_radius)
        columns["logg"] = _GRAVITY
    kept = np.ones(len(table), bool)
    for name, mask in published.bad_bits:
        if name in names:
            bits = np.nan_to_num(read_numbers(table, name)).astype(np.int64)
            kept &= (bits & mask) == 0
    if not kept.all():
        notes.append(f"{int((~kept).sum())} of its {kept.size} rows are flagged bad, and left out")
        ready = ready[kept].reset_index(drop=True)
    return PreparedTable(ready, columns, published.epoch_yr, tuple(notes))


def columns_of(table: pd.DataFrame) -> Mapping[str, str]:
    """Columns by quantity of a table that is recognised; empty for any other."""
    published = recognise_table(table)
    names = set(map(str, table.columns))
    pairs = () if published is None else published.columns
    return {quantity: name for quantity, name in pairs if name in names}


def gravity_of_mass_and_radius(table: pd.DataFrame, mass: str, radius: str) -> np.ndarray:
    """Log g of columns in solar units, (n,); NaN where one of them is missing or not positive."""
    numbers = [read_numbers(table, name) for name in (mass, radius)]
    possible = (numbers[0] > 0) & (numbers[1] > 0)
    gravity = np.full(len(table), np.nan)
    gravity[possible] = surface_gravity(numbers[0][possible], numbers[1][possible])
    return gravity
