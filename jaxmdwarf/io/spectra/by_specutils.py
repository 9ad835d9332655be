"""Every other format: whatever specutils can read (the extra ``specutils``)."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.spectra.records import (
    SpectrumRecord,
    build_spectrum,
    check_record,
    clean_pixels,
    number_or_nan,
    text_or_empty,
)
from jaxmdwarf.wavelengths import air_to_vacuum

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

INSTALL_REMEDY = 'install specutils to read it: pip install "jaxmdwarf[specutils]".'


def read_with_specutils(
    path: str | os.PathLike[str], *, format: str | None = None, air: bool | None = None
) -> RawSpectrum:
    """Read one spectrum with specutils.

    Parameters
    ----------
    path : str or path
        The file.
    format : str, optional
        Name of the specutils loader; None lets specutils find it.
    air : bool, optional
        Whether the file's wavelengths are in air; None believes its WCS (``AWAV``) or its VACUUM
        or AIRORVAC keyword, and takes vacuum otherwise.

    Returns
    -------
    RawSpectrum
        Vacuum wavelengths; ivar 0 where masked, not finite or without uncertainty.

    Raises
    ------
    RejectedInput
        If specutils is not installed, cannot read the file, or the file gives no uncertainty.
    """
    record = decode_with_specutils(str(path), format=format, air=air)
    check_record(record)
    return build_spectrum(record)


def decode_with_specutils(
    path: str, *, format: str | None = None, air: bool | None = None
) -> SpectrumRecord:
    """Like `read_with_specutils`, as a plain record."""
    try:
        import specutils
    except ImportError:
        raise RejectedInput(
            "no format that is built in, and specutils is not installed.", INSTALL_REMEDY
        ) from None
    # specutils 2 renamed its class.
    reader = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectrum = reader.read(path, format=format) if format else reader.read(path)
    except Exception as error:  # loaders raise whatever they like
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RejectedInput(
            f"no known spectrum format; specutils says: {line}.",
            "give LAMOST, SDSS or BOSS files, or a format with a specutils loader.",
        ) from None
    return _record_of(spectrum, path, format=format, air=air)


def _record_of(spectrum: Any, path: str, *, format: str | None, air: bool | None) -> SpectrumRecord:
    import astropy.units as u
    from astropy.nddata import InverseVariance

    if spectrum.flux.ndim != 1:
        raise RejectedInput(
            f"holds spectra of shape {spectrum.flux.shape}.", "give files of one spectrum each."
        )
    if spectrum.uncertainty is None:
        raise RejectedInput(
            "gives no uncertainty.", "add an uncertainty: every measurement here needs one."
        )
    try:
        wave = spectrum.spectral_axis.to_value(u.AA, equivalencies=u.spectral())
        ivar = spectrum.uncertainty.represent_as(InverseVariance).array
    except (u.UnitConversionError, TypeError, ValueError) as error:
        raise RejectedInput(
            f"wavelengths or uncertainties cannot be converted ({error}).",
            "give wavelengths with a unit and a standard uncertainty.",
        ) from None
    header = spectrum.meta.get("header") if isinstance(spectrum.meta, dict) else None
    header = header if header is not None else {}
    wave = np.asarray(wave, dtype=np.float64)
    if air if air is not None else _says_air(spectrum, header):
        wave = air_to_vacuum(wave)
    with np.errstate(invalid="ignore", divide="ignore"):
        flux, ivar, had_nonfinite = clean_pixels(
            np.asarray(spectrum.flux.value), np.asarray(ivar), spectrum.mask
        )
    if wave.size > 1 and (np.diff(wave) < 0).all():
        # Frequencies and wavenumbers run the other way round.
        wave, flux, ivar = wave[::-1].copy(), flux[::-1].copy(), ivar[::-1].copy()
    identifier = header.get("OBSID", header.get("OBJECT", header.get("TARGETID")))
    meta: dict[str, str | float | bool] = {
        "path": path,
        "obsid": text_or_empty(identifier),
        "survey": text_or_empty(header.get("TELESCOP", header.get("SURVEY"))),
        "layout": f"specutils:{format}" if format else "specutils",
        "ra_deg": number_or_nan(header.get("RA")),
        "dec_deg": number_or_nan(header.get("DEC")),
        "z": number_or_nan(header.get("Z")),
        "snr_r": number_or_nan(header.get("SNRR")),
        "snr_i": number_or_nan(header.get("SNRI")),
        "subclass": text_or_empty(header.get("SUBCLASS")),
        "object_class": text_or_empty(header.get("CLASS")),
        "had_nonfinite": had_nonfinite,
    }
    return SpectrumRecord(wave, flux, ivar, meta)


def _says_air(spectrum: Any, header: Any) -> bool:
    types = [text_or_empty(header.get("CTYPE1"))]
    fits_wcs = getattr(getattr(spectrum, "wcs", None), "wcs", None)
    types += [str(name) for name in getattr(fits_wcs, "ctype", ())]
    if any(name.upper().startswith("AWAV") for name in types):
        return True
    if text_or_empty(header.get("AIRORVAC")).lower() == "air":
        return True
    return header.get("VACUUM") in (False, 0, "F")
