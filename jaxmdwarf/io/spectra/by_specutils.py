"""Every other format: whatever specutils can read (the extra ``specutils``)."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from jaxmdwarf.arrays import read_specutils
from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io.fits_bytes import require_sane_cards
from jaxmdwarf.io.spectra.files import SpectrumFile, describe
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    SpectrumRecord,
    build_spectrum,
    check_record,
    number_or_nan,
    text_or_empty,
)

if TYPE_CHECKING:
    from jaxmdwarf.spectra import RawSpectrum

INSTALL_REMEDY = 'install specutils to read it: pip install "jaxmdwarf[specutils]".'


_OTHER_FORMATS = {b"\x89HDF": "HDF5", b"# %ECSV": "ECSV"}
"""First bytes of further formats that are worth an attempt."""


def matches(file: SpectrumFile) -> bool:
    """Whether the content is FITS, or of another format that specutils may know."""
    return file.is_fits or any(file.data[:16].startswith(magic) for magic in _OTHER_FORMATS)


def read(file: SpectrumFile) -> list[SpectrumRecord]:
    """What specutils finds in the file: one spectrum, or several on the same pixels.

    Raises
    ------
    RejectedInput
        If specutils is missing or cannot read it; says what the file holds.
    """
    try:
        if file.is_fits:
            require_sane_cards(file.data)
        return decode_with_specutils(file.path)
    except RejectedInput as error:
        if not file.is_fits:
            raise
        raise RejectedInput(f"{error.message} (found {describe(file)}).", error.remedy) from None


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
        Whether the file's wavelengths are in air; None takes the word of its WCS (``AWAV``), or of
        its VACUUM or AIRORVAC keyword, and takes vacuum otherwise.

    Returns
    -------
    RawSpectrum
        Vacuum wavelengths; ivar 0 where masked, not finite or without uncertainty.

    Raises
    ------
    RejectedInput
        If specutils is not installed, cannot read the file, or the file gives no uncertainty.
    """
    records = decode_with_specutils(os.fspath(path), format=format, air=air)
    if len(records) > 1:
        raise RejectedInput(
            f"holds {len(records)} spectra.", "read them with read_spectra, or give one a file."
        )
    check_record(records[0])
    return build_spectrum(records[0])


def decode_with_specutils(
    path: str, *, format: str | None = None, air: bool | None = None
) -> list[SpectrumRecord]:
    """Like `read_with_specutils`, all spectra as plain records."""
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
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise RejectedInput(
            f"no known spectrum format; specutils says: {line}.",
            "give LAMOST, SDSS or DESI files, a format with a specutils loader, or register a "
            "reader (help(jaxmdwarf.io.spectra.registry)).",
        ) from None
    if spectrum.flux.ndim == 2:
        rows = [spectrum[row] for row in range(len(spectrum.flux))]
    else:
        rows = [spectrum]
    return [record_of(row, path, format=format, air=air) for row in rows]


def record_of(
    spectrum: Any, path: str, *, format: str | None = None, air: bool | None = None
) -> SpectrumRecord:
    """A specutils spectrum as a record.

    Raises
    ------
    RejectedInput
        If it gives no uncertainty, or no wavelengths.
    """
    medium = None if air is None else "air" if air else "vacuum"
    try:
        pixels = read_specutils(spectrum, medium=medium)
    except UsageError as error:
        raise RejectedInput(error.message, error.remedy) from None
    header = spectrum.meta.get("header") if isinstance(spectrum.meta, dict) else None
    header = header if header is not None else {}
    identifier = header.get("OBSID", header.get("OBJECT", header.get("TARGETID")))
    meta = NO_HEADER | {
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
        "had_nonfinite": pixels.had_nonfinite,
    }
    return SpectrumRecord(pixels.wave_aa, pixels.flux, pixels.ivar, meta)
