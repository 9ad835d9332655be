"""Columns of all tables: name, unit, meaning and UCD, said once for every file format.

Names are plain identifiers, the same whether a spectrum was measured, fitted or catalogued. Columns
of stellar labels come from `jaxmdwarf.labels`, all others are here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.catalogue.label_columns import (
    describe_label_column,
    label_columns,
    list_label_columns,
    partial_error_columns,
)
from jaxmdwarf.labels import LABELS, VELOCITY, describe_label, reserve_columns


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
        "Ksmag",
        "2MASS Ks magnitude",
        "mag",
        "phot.mag;em.IR.K",
        aliases=("kmag", "km", "ksm"),
    ),
    Column("e_Ksmag", "Error of Ksmag, one sigma", "mag", "stat.error;phot.mag;em.IR.K"),
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
    Column("Teff_phot", "Teff by BP - RP, at M_H of the row", "K", "phys.temperature.effective"),
    Column(
        "e_Teff_phot",
        "Error of Teff_phot, one sigma",
        "K",
        "stat.error;phys.temperature.effective",
    ),
    Column("Logg_phot", "log g by parallax and Ks, or G", "dex", "phys.gravity"),
    Column("e_Logg_phot", "Error of Logg_phot, one sigma", "dex", "stat.error;phys.gravity"),
    Column(
        "PhotUsed",
        "What photometry is in the labels: 1 log g, 2 Teff, 3 both",
        ucd="meta.code",
        kind="int",
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
    return describe_label_column(name)


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
    order[_AFTER_VELOCITY:_AFTER_VELOCITY] = [column.name for column in list_label_columns(known)]
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
    known = [
        column.name
        for column in (*list_label_columns(LABELS.values()), *partial_error_columns(VELOCITY))
    ]
    for name in order_columns([*COLUMNS, *known]):
        column = describe_column(name)
        assert column is not None
        shown = f"**`{name}`**" if name in TABLE_1 else f"`{name}`"
        lines.append(f"| {shown} | {column.unit} | {column.description} | {column.ucd} |")
    return "\n".join(lines) + "\n"
