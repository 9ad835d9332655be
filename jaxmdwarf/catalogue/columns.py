"""Columns of all tables: name, unit, meaning and UCD, said once for every file format.

Names are plain identifiers, the same whether a spectrum was measured, fitted or catalogued. Columns
of stellar labels come from `jaxmdwarf.labels`, all others are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

from jaxmdwarf.labels import (
    GENERIC_UCD,
    LABELS,
    VELOCITY,
    Label,
    describe_label,
    normalise_column,
    reserve_columns,
)

FORMAL_PREFIX = "e_fit_"
"""Begins columns of errors without the part that repeats show (paper, eq. 8)."""

REPEAT_PREFIX = "e_repeat_"
"""Begins columns of the scatter of repeat visits (paper, eq. 9)."""

Kind = Literal["float", "int", "bool", "text", "identifier"]

ORIGINS = ("header", "measured", "kind", "fit")
"""What rows are made of: `SpectrumMeta`, `SpectrumMeasurements`, what `describe_kinds` finds, and
`FittedSpectra` with its `FitResult`."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : str
        As in the file.
    description : str
        One sentence, with the paper's spelling where it has another (Table 1).
    unit : str
        As astropy reads it; empty for pure numbers and text.
    ucd : str
        IVOA unified content descriptor (UCD1+).
    kind : {"float", "int", "bool", "text", "identifier"}
        Missing floats are NaN, missing texts empty, missing integers masked. Identifiers are
        integers where all of a table are, otherwise texts.
    aliases : tuple of str
        Columns of other people's tables that hold it, as `jaxmdwarf.labels.normalise_column` writes
        them; the name itself is always understood.
    source : str
        Where rows take it from, one of `ORIGINS` and the name of a field there: ``fit.n_pix``.
        Empty for what is computed from several fields, or joined later.
    """

    name: str
    description: str
    unit: str = ""
    ucd: str = ""
    kind: Kind = "float"
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        origin, dot, name = self.source.partition(".")
        if self.source and not (origin in ORIGINS and dot and name):
            raise ValueError(f"{self.name}: {self.source!r} is none of {ORIGINS} and a field.")

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names of columns that hold this one, the own name first."""
        return (normalise_column(self.name), *self.aliases)


def label_columns(label: Label) -> tuple[Column, Column]:
    """The columns of a label and of its error.

    Examples
    --------
    >>> [column.name for column in label_columns(describe_label("mh"))]
    ['M_H', 'e_M_H']
    """
    # The paper writes e.[M/H] and e.Teff; no format but its own takes dots and brackets in names.
    error_ucd = "stat.error" if label.ucd == GENERIC_UCD else f"stat.error;{label.ucd}"
    return (
        Column(label.column, label.description, label.unit, label.ucd),
        Column(label.error_column, f"Error of {label.column}, one sigma", label.unit, error_ucd),
    )


def partial_error_columns(label: Label) -> tuple[Column, Column]:
    """The columns of what a total error is made of: the fit's own, and the scatter of repeats.

    Examples
    --------
    >>> [column.name for column in partial_error_columns(describe_label("teff"))]
    ['e_fit_Teff', 'e_repeat_Teff']
    """
    column, error = label_columns(label)
    return (
        Column(
            f"{FORMAL_PREFIX}{column.name}",
            f"Error of {column.name} by the fit alone, one sigma",
            error.unit,
            error.ucd,
        ),
        Column(
            f"{REPEAT_PREFIX}{column.name}",
            f"Scatter of {column.name} among visits at this S/N",
            error.unit,
            error.ucd.replace("stat.error", "stat.stdev"),
        ),
    )


def likelihood_columns(label: Label) -> tuple[Column, Column, Column]:
    """The columns of a label by the spectrum alone, its error, and how much is the priors'.

    Examples
    --------
    >>> [column.name for column in likelihood_columns(describe_label("mh"))]
    ['M_H_lik', 'e_M_H_lik', 'prior_M_H']
    """
    column, error = label_columns(label)
    name = f"{column.name}_lik"
    return (
        Column(name, f"{column.name} by the spectrum alone, no priors", column.unit, column.ucd),
        Column(f"e_{name}", f"Error of {name}, one sigma", column.unit, error.ucd),
        Column(
            f"prior_{column.name}",
            f"Share of the information on {column.name} that is the priors'",
            ucd="stat.weight",
        ),
    )


def correlation_column(one: Label, other: Label) -> Column:
    """The column of the correlation of the errors of two labels.

    Examples
    --------
    >>> correlation_column(describe_label("teff"), describe_label("mh")).name
    'corr_Teff_M_H'
    """
    names = one.column, other.column
    return Column(
        f"corr_{'_'.join(names)}",
        f"Correlation of the errors of {' and '.join(names)} by the fit",
        ucd="stat.correlation",
    )


def _band_index(name: str) -> tuple[Column, Column]:
    error, field = f"e_{name}", name.lower()
    return (
        Column(
            name,
            f"{name} band index (Reid et al. 1995)",
            ucd="spect.index",
            source=f"measured.{field}",
        ),
        Column(
            error,
            f"Error of {name}, one sigma",
            ucd="stat.error;spect.index",
            source=f"measured.e_{field}",
        ),
    )


_OWN_COLUMNS = (
    Column(
        "ID",
        "Designation of the object, by the survey or by position",
        ucd="meta.id;meta.main",
        kind="text",
    ),
    Column(
        "obsid",
        "Identifier of the spectrum in its survey",
        ucd="meta.id",
        kind="identifier",
        source="header.obsid",
    ),
    Column(
        "source_id",
        "Identifier of the star in Gaia",
        ucd="meta.id;src",
        kind="identifier",
        aliases=(
            *("gaiasourceid", "dr3sourceid", "gaiadr3sourceid", "gaiadr3id", "gaiaedr3id"),
            *("gaiadr3", "gaiaedr3", "dr3name", "edr3name", "gaiaid", "gaia", "source"),
        ),
    ),
    Column(
        "star", "Number of the star, the same in all of its rows", ucd="meta.id;src", kind="int"
    ),
    Column("n_visits", "Spectra of the star among the inputs", ucd="meta.number", kind="int"),
    Column(
        "RA",
        "Right ascension (J2000)",
        "deg",
        "pos.eq.ra;meta.main",
        aliases=("radeg", "raj2000", "raicrs", "ra2016", "raj2016", "alpha"),
        source="header.ra_deg",
    ),
    Column(
        "Dec",
        "Declination (J2000)",
        "deg",
        "pos.eq.dec;meta.main",
        aliases=(
            *("decdeg", "dedeg", "dej2000", "decj2000", "deicrs", "de", "dej2016", "dec2016"),
            *("decj2016", "decicrs", "delta"),
        ),
        source="header.dec_deg",
    ),
    Column(
        "SNRr", "Median signal-to-noise per pixel in r", ucd="stat.snr;em.opt.R", aliases=("snr",)
    ),
    Column("SNRi", "Median signal-to-noise per pixel in i", ucd="stat.snr;em.opt.I"),
    Column(
        "Class",
        "Class from the pipeline of the survey",
        ucd="src.class",
        kind="text",
        source="header.object_class",
    ),
    Column(
        "Subclass",
        "Spectral subclass from the pipeline of the survey",
        ucd="src.spType",
        kind="text",
        source="header.subclass",
    ),
    Column(
        "SpT",
        "Spectral subtype from TiO5, from K5 (-2) over M0 (0) to M7 (7)",
        ucd="src.spType",
        source="measured.spt",
    ),
    Column(
        "e_SpT",
        "Error of SpT, with the scatter of the relation, one sigma",
        ucd="stat.error;src.spType",
        source="measured.e_spt",
    ),
    Column(
        "Gmag",
        "Gaia G mean magnitude",
        "mag",
        "phot.mag;em.opt",
        aliases=("photgmeanmag", "gaiagmag"),
    ),
    Column(
        "BPmag",
        "Gaia integrated BP mean magnitude",
        "mag",
        "phot.mag;em.opt.B",
        aliases=("photbpmeanmag", "gaiabpmag"),
    ),
    Column(
        "RPmag",
        "Gaia integrated RP mean magnitude",
        "mag",
        "phot.mag;em.opt.R",
        aliases=("photrpmeanmag", "gaiarpmag"),
    ),
    Column(
        "Plx",
        "Gaia parallax",
        "mas",
        "pos.parallax.trig",
        aliases=("parallax", "parallaxmas", "gaiaparallax"),
    ),
    Column(
        "e_Plx",
        "Error of Plx, one sigma (paper: e.Plx)",
        "mas",
        "stat.error;pos.parallax.trig",
        aliases=("parallaxerror", "eparallaxmas", "gaiaparallaxerror"),
    ),
    Column("RUWE", "Gaia renormalised unit weight error", ucd="stat.fit.goodness"),
    Column(
        "pmRA",
        "Proper motion in right ascension, times cos(Dec)",
        "mas/yr",
        "pos.pm;pos.eq.ra",
        aliases=("pmramasyr", "pmracosdec", "gaiapmra"),
    ),
    Column(
        "pmDE",
        "Proper motion in declination",
        "mas/yr",
        "pos.pm;pos.eq.dec",
        aliases=("pmdec", "pmdecmasyr", "gaiapmdec"),
    ),
    *label_columns(VELOCITY),
    Column(
        "RV_used",
        "Velocity by which the spectrum was shifted to rest",
        "km/s",
        "spect.dopplerVeloc.opt",
    ),
    Column(
        "Activity",
        "1 if Halpha emission is detected, else 0",
        ucd="meta.code",
        kind="int",
        source="measured.active",
    ),
    Column(
        "VBFlag",
        "1 for candidates of variability, 2 of binarity, else 0",
        ucd="meta.code",
        kind="int",
    ),
    Column(
        "VBTables",
        "Tables of variables and of binaries that have the star",
        ucd="meta.bib",
        kind="text",
    ),
    Column(
        "Age",
        "Age of the star, the median where its distribution is known",
        "Gyr",
        "time.age",
        aliases=("agegyr", "agemedian", "medianage"),
    ),
    Column(
        "Age_mean",
        "Mean of the distribution of the age of the star",
        "Gyr",
        "time.age;stat.mean",
        aliases=("agemeangyr", "meanage"),
    ),
    Column(
        "EW_Halpha",
        "Equivalent width of Halpha, emission positive",
        "Angstrom",
        "spect.line.eqWidth",
        source="measured.ew_halpha",
    ),
    Column(
        "e_EW_Halpha",
        "Error of EW_Halpha, one sigma",
        "Angstrom",
        "stat.error;spect.line.eqWidth",
        source="measured.e_ew_halpha",
    ),
    *_band_index("TiO5"),
    *_band_index("CaH1"),
    *_band_index("CaH2"),
    *_band_index("CaH3"),
    Column(
        "zeta",
        "Metallicity index of TiO5 and CaH (Lepine et al. 2007)",
        ucd="phys.abund.Z",
        source="measured.zeta",
    ),
    Column(
        "e_zeta",
        "Error of zeta, one sigma",
        ucd="stat.error;phys.abund.Z",
        source="measured.e_zeta",
    ),
    Column(
        "kind",
        "M dwarf, K dwarf, giant, hotter star, galaxy, empty or unknown",
        ucd="src.class",
        kind="text",
        source="kind.kind",
    ),
    Column(
        "BandStrength",
        "Depth of TiO and CaH bands, 1 at M0 of SDSS",
        ucd="spect.index",
        source="kind.strength",
    ),
    Column(
        "e_BandStrength",
        "Error of BandStrength, one sigma",
        ucd="stat.error;spect.index",
        source="kind.e_strength",
    ),
    Column(
        "SpT_bands",
        "Subtype from BandStrength, as SDSS types: -1 is K7, 0 is M0",
        ucd="src.spType",
        source="kind.band_type",
    ),
    Column(
        "e_SpT_bands",
        "Error of SpT_bands, with the scatter of the templates, one sigma",
        ucd="stat.error;src.spType",
        source="kind.e_band_type",
    ),
    Column(
        "RVDrift",
        "Drift of wavelengths at 6500 Angstrom",
        "km/s",
        ucd="instr.calib",
        source="fit.drift_kms",
    ),
    Column(
        "e_RVDrift",
        "Error of RVDrift, one sigma",
        "km/s",
        ucd="stat.error;instr.calib",
        source="fit.e_drift",
    ),
    Column(
        "chi2_red",
        "Chi-square per good pixel of the best model",
        ucd="stat.fit.chi2",
        source="fit.chi2_red",
    ),
    Column(
        "OutlierScore",
        "Distance from the training stars of the model; 1 is the limit",
        ucd="stat.fit.goodness",
        source="fit.outlier_score",
    ),
    Column(
        "n_pix",
        "Number of pixels that entered the fit",
        ucd="meta.number",
        kind="int",
        source="fit.n_pix",
    ),
    Column(
        "n_clipped",
        "Pixels of the file that were left out of the fit as outliers",
        ucd="meta.number",
        kind="int",
        source="fit.n_clipped",
    ),
    Column(
        "flags", "Sum of quality bits; FLAGn of the header says bit n", ucd="meta.code", kind="int"
    ),
    Column(
        "good",
        "Whether no bit of flags makes the row unfit for use",
        ucd="meta.code.qual",
        kind="bool",
    ),
    Column(
        "spectrum",
        "Index of the spectrum in its file, from 0",
        ucd="meta.number",
        kind="int",
    ),
    Column(
        "path",
        "File that the spectrum was read from",
        ucd="meta.id;meta.file",
        kind="text",
        aliases=("file", "filename"),
    ),
)

COLUMNS: dict[str, Column] = {column.name: column for column in _OWN_COLUMNS}
"""All columns but those of labels, in the order of a catalogue."""

reserve_columns(COLUMNS)

TABLE_1: tuple[str, ...] = (
    *("ID", "obsid", "RA", "Dec", "SNRr", "SNRi", "Subclass", "SpT", "Gmag", "BPmag", "RPmag"),
    *("Plx", "e_Plx", "RUWE", "RV", "e_RV", "Teff", "e_Teff", "Logg", "e_Logg", "M_H", "e_M_H"),
    *("Activity", "VBFlag"),
)
"""The 24 columns of the paper's Table 1, as they are spelled here."""

_AFTER_VELOCITY = tuple(COLUMNS).index("RV_used") + 1


def columns_from(origin: str) -> dict[str, str]:
    """Columns that rows take from one of `ORIGINS`, by the name of the field there.

    Examples
    --------
    >>> columns_from("kind")["strength"]
    'BandStrength'
    """
    return {
        column.source.partition(".")[2]: column.name
        for column in COLUMNS.values()
        if column.source.startswith(f"{origin}.")
    }


def describe_column(name: str) -> Column | None:
    """What column `name` is; None for one that is not of this package.

    Examples
    --------
    >>> describe_column("e_M_H").unit, describe_column("TEFF_K")
    ('dex', None)
    """
    if name in COLUMNS:
        return COLUMNS[name]
    for label in (*LABELS.values(), VELOCITY):
        for column in (*label_columns(label), *partial_error_columns(label)):
            if column.name == name:
                return column
    for label in LABELS.values():
        for column in likelihood_columns(label):
            if column.name == name:
                return column
    for pair in permutations(LABELS.values(), 2):
        column = correlation_column(*pair)
        if column.name == name:
            return column
    return None


def order_columns(names: Iterable[str], labels: Sequence[str] = ()) -> list[str]:
    """Column names in the order of a catalogue; unknown ones stay together at the end.

    Parameters
    ----------
    names : iterable of str
    labels : sequence of str
        Labels in the order that they should have; by default that of the registry.

    Examples
    --------
    >>> order_columns(["path", "Teff", "mine", "flags", "ID", "RV"])
    ['ID', 'RV', 'Teff', 'flags', 'path', 'mine']
    """
    order = list(COLUMNS)
    known = [describe_label(label) for label in dict.fromkeys([*labels, *LABELS])]
    order[_AFTER_VELOCITY:_AFTER_VELOCITY] = [
        column.name
        for label in known
        for column in (
            *label_columns(label),
            *partial_error_columns(label),
            *likelihood_columns(label),
        )
    ] + [correlation_column(*pair).name for pair in combinations(known, 2)]
    place = order.index("RV_used")
    order[place:place] = [column.name for column in partial_error_columns(VELOCITY)]
    number = {name: number for number, name in enumerate(order)}
    return sorted(names, key=lambda name: number.get(name, len(number)))


def write_column_page() -> str:
    """All columns as a page of the documentation (Markdown)."""
    lines = [
        "# Columns",
        "",
        "Names are the same in every format and whichever command writes them; a command writes",
        "those that it knows something of. Missing numbers are NaN, missing integers masked. "
        + "Columns",
        "of the paper's Table 1 are in bold. A grid with other labels brings columns of its own.",
        "",
        "| column | unit | meaning | UCD |",
        "|---|---|---|---|",
    ]
    known = [name for label in LABELS.values() for name in (label.column, label.error_column)]
    for label in (*LABELS.values(), VELOCITY):
        known += [column.name for column in partial_error_columns(label)]
    for label in LABELS.values():
        known += [column.name for column in likelihood_columns(label)]
    known += [correlation_column(*pair).name for pair in combinations(LABELS.values(), 2)]
    for name in order_columns([*COLUMNS, *known]):
        column = describe_column(name)
        assert column is not None
        shown = f"**`{name}`**" if name in TABLE_1 else f"`{name}`"
        lines.append(f"| {shown} | {column.unit} | {column.description} | {column.ucd} |")
    return "\n".join(lines) + "\n"
