"""Columns of the products: name, unit, meaning and UCD, said once for every file format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of a product.

    Parameters
    ----------
    name : str
        As in the file.
    description : str
        One sentence.
    unit : str
        In FITS and VO notation; empty for pure numbers and text.
    ucd : str
        IVOA unified content descriptor (UCD1+).
    missing : float, optional
        What files hold where there is no value, if the format of the product asks for a number
        (the paper's -9999); None leaves NaN. In memory a missing value is always NaN.
    """

    name: str
    description: str
    unit: str = ""
    ucd: str = ""
    missing: float | None = None


def _register(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


MEASURE_COLUMNS: dict[str, Column] = _register(
    Column("path", "File that the spectrum was read from", ucd="meta.id;meta.file"),
    Column("obsid", "Identifier of the spectrum in its survey", ucd="meta.id;meta.main"),
    Column("snr_r", "Median signal-to-noise per pixel in r", ucd="stat.snr;em.opt.R"),
    Column("snr_i", "Median signal-to-noise per pixel in i", ucd="stat.snr;em.opt.I"),
    Column(
        "ew_halpha",
        "Halpha equivalent width within 7 Angstrom, emission positive",
        "Angstrom",
        "spect.line.eqWidth;em.line.Halpha",
    ),
    Column(
        "e_ew_halpha",
        "Error of ew_halpha",
        "Angstrom",
        "stat.error;spect.line.eqWidth;em.line.Halpha",
    ),
    Column("active", "1 if ew_halpha is above 0.75 Angstrom, else 0", ucd="meta.code"),
    Column("tio5", "TiO5 band index (Reid et al. 1995)", ucd="spect.index"),
    Column("e_tio5", "Error of tio5", ucd="stat.error;spect.index"),
    Column("cah2", "CaH2 band index (Reid et al. 1995)", ucd="spect.index"),
    Column("cah3", "CaH3 band index (Reid et al. 1995)", ucd="spect.index"),
    Column(
        "spt",
        "Spectral subtype from TiO5: -2 is K5, -1 is K7, 0 to 7 are M0 to M7; -9999 outside",
        ucd="src.spType",
        missing=-9999.0,
    ),
    Column(
        "e_spt",
        "Error of spt: scatter of the relation (0.5) and error of tio5 in quadrature",
        ucd="stat.error;src.spType",
        missing=-9999.0,
    ),
    Column("e_cah2", "Error of cah2", ucd="stat.error;spect.index"),
    Column("e_cah3", "Error of cah3", ucd="stat.error;spect.index"),
    Column("cah1", "CaH1 band index (Reid et al. 1995)", ucd="spect.index"),
    Column("e_cah1", "Error of cah1", ucd="stat.error;spect.index"),
    Column("ra", "Right ascension (J2000)", "deg", "pos.eq.ra;meta.main"),
    Column("dec", "Declination (J2000)", "deg", "pos.eq.dec;meta.main"),
    Column("class", "Class given by the survey's pipeline", ucd="src.class"),
    Column("subclass", "Spectral subclass given by the survey's pipeline", ucd="src.spType"),
    Column(
        "rv_used",
        "Velocity by which the spectrum was shifted to rest",
        "km / s",
        "spect.dopplerVeloc.opt",
    ),
    Column("flags", "Quality bits, see jaxmdwarf.quality.QualityFlag", ucd="meta.code.qual"),
)
"""Columns of `jaxmdwarf measure`, in order."""

FIT_COLUMNS: dict[str, Column] = _register(
    Column("path", "File that the spectrum was read from", ucd="meta.id;meta.file"),
    Column("obsid", "Identifier of the spectrum in its survey", ucd="meta.id;meta.main"),
    Column("RA", "Right ascension (J2000)", "deg", "pos.eq.ra;meta.main"),
    Column("Dec", "Declination (J2000)", "deg", "pos.eq.dec;meta.main"),
    Column("SNRr", "Median signal-to-noise per pixel in r", ucd="stat.snr;em.opt.R"),
    Column("SNRi", "Median signal-to-noise per pixel in i", ucd="stat.snr;em.opt.I"),
    Column("Subclass", "Spectral subclass given by the survey's pipeline", ucd="src.spType"),
    Column("RV", "Radial velocity, positive receding", "km / s", "spect.dopplerVeloc.opt"),
    Column("e_RV", "Error of RV", "km / s", "stat.error;spect.dopplerVeloc.opt"),
    Column("Teff", "Effective temperature", "K", "phys.temperature.effective"),
    Column("e_Teff", "Error of Teff", "K", "stat.error;phys.temperature.effective"),
    Column("Logg", "Surface gravity, log10 of cm s-2", "dex", "phys.gravity"),
    Column("e_Logg", "Error of Logg", "dex", "stat.error;phys.gravity"),
    Column("[M/H]", "Overall metallicity", "dex", "phys.abund.Z"),
    Column("e_[M/H]", "Error of [M/H]", "dex", "stat.error;phys.abund.Z"),
    Column("alpha_M", "Abundance of alpha elements over metals, [alpha/M]", "dex", "phys.abund"),
    Column("e_alpha_M", "Error of alpha_M", "dex", "stat.error;phys.abund"),
    Column("chi2_red", "Chi-square per good pixel of the best model", ucd="stat.fit.chi2"),
    Column("n_pix", "Number of pixels that entered the fit", ucd="meta.number"),
    Column("flags", "Quality bits, see jaxmdwarf.quality.QualityFlag", ucd="meta.code.qual"),
    Column(
        "SpT",
        "Spectral subtype from TiO5: -2 is K5, -1 is K7, 0 to 7 are M0 to M7; -9999 outside",
        ucd="src.spType",
        missing=-9999.0,
    ),
    Column("Activity", "1 if Halpha emission is detected, else 0", ucd="meta.code"),
)
"""Columns of `jaxmdwarf fit`: the names of the paper's Table 1 where it has them."""
