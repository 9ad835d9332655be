"""What people hold in memory to clean pixels: units, order, air, masks, missing values.

Arrays, lists, astropy quantities and specutils spectra all end here, and so do the pixels of every
file reader. Nothing here imports JAX, and astropy only where a unit asks for it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.wavelengths import air_to_vacuum

_ANGSTROM_OF = {
    "angstrom": 1.0,
    "angstroms": 1.0,
    "aa": 1.0,
    "a": 1.0,
    "å": 1.0,
    "nm": 10.0,
    "nanometer": 10.0,
    "nanometers": 10.0,
    "nanometre": 10.0,
    "nanometres": 10.0,
    "um": 1e4,
    "µm": 1e4,
    "micron": 1e4,
    "microns": 1e4,
}
"""Names of length units that need no astropy."""

_NO_FLUX = ("length", "temperature", "time", "frequency", "wavenumber", "angle", "mass", "speed")
"""Physical types of units that tell of arguments in the wrong place; other linear ones may be."""


LEAST_WEIGHT = 1e-3
"""Inverse variance, in units of the median of the spectrum, below which a pixel is a bad one: who
marks bad pixels by a huge sigma means so. In real spectra of LAMOST and SDSS two pixels of 3,900 at
most are below, and hold nothing; but a running mean would take their flux at its full weight."""


class CleanPixels(NamedTuple):
    """Pixels in which every kind of bad pixel is ivar 0, and nothing else is.

    Parameters
    ----------
    flux, ivar : (n,) float
        Native byte order; finite; ivar >= 0.
    had_nonfinite : bool
        Whether flux or ivar held NaN or infinity.
    why_empty : str
        Where no good pixel is left, the reason as a phrase; else empty.
    """

    flux: np.ndarray
    ivar: np.ndarray
    had_nonfinite: bool
    why_empty: str = ""


class PixelArrays(NamedTuple):
    """One spectrum as arrays: what `RawSpectrum` asks of its pixels, see there."""

    wave_aa: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    had_nonfinite: bool


def clean_pixels(
    flux: np.ndarray, ivar: np.ndarray, bad: np.ndarray | None = None, *, mask_name: str = "a mask"
) -> CleanPixels:
    """Turn every kind of bad pixel into ivar 0.

    Parameters
    ----------
    flux, ivar : (n,) float
        As in the file.
    bad : (n,) bool, optional
        Further pixels to drop, from the survey's mask.
    mask_name : str
        What that mask is called, for the reason where it leaves nothing.

    Returns
    -------
    CleanPixels
        Non-finite values are 0 with ivar 0; negative ivar is 0, and so is one below `LEAST_WEIGHT`
        of the median of those above 0.

    Examples
    --------
    >>> clean_pixels(np.array([1.0, np.nan]), np.array([-4.0, 4.0])).why_empty
    '1 of 2 pixels are not finite, ivar of the others is 0 or negative'
    """
    flux = _native_float(flux)
    ivar = _native_float(ivar)
    # A sum is finite only if all terms are: one pass in the usual case of nothing to repair.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not math.isfinite(float(flux.sum(dtype=np.float64))) or not math.isfinite(
            float(ivar.sum(dtype=np.float64))
        )
    n_nonfinite = 0
    if suspicious:
        nonfinite = ~(np.isfinite(flux) & np.isfinite(ivar))
        n_nonfinite = int(np.count_nonzero(nonfinite))
        flux = np.where(nonfinite, 0, flux)
        ivar = np.where(nonfinite, 0, ivar)
    ivar = np.maximum(ivar, 0)
    n_positive = 0
    if bad is not None and bad.any():
        n_positive = int(np.count_nonzero(ivar))
        ivar[bad] = 0
    why_empty = ""
    positive = ivar[ivar > 0]
    if positive.size:
        least = LEAST_WEIGHT * np.median(positive)
        if positive.min() < least:
            ivar = np.where(ivar < least, ivar.dtype.type(0), ivar)
    else:
        why_empty = _explain_empty(flux.size, n_nonfinite, n_positive, mask_name)
    return CleanPixels(flux, ivar, n_nonfinite > 0, why_empty)


def _explain_empty(n_pix: int, n_nonfinite: int, n_masked: int, mask_name: str) -> str:
    """Why no pixel is good: they were good until the mask came, or never."""
    if n_masked:
        share = "all" if n_masked == n_pix else f"all {n_masked} of {n_pix}"
        return f"{mask_name} covers {share} pixels that have ivar > 0"
    if n_nonfinite == n_pix:
        return "flux or ivar is NaN or infinite in every pixel"
    if n_nonfinite:
        return (
            f"{n_nonfinite} of {n_pix} pixels are not finite, ivar of the others is 0 or negative"
        )
    return "ivar is 0 or negative in every pixel"


def read_arrays(
    wave: Any,
    flux: Any,
    ivar: Any = None,
    *,
    sigma: Any = None,
    mask: Any = None,
    wave_unit: Any = None,
    medium: str = "vacuum",
) -> PixelArrays:
    """One spectrum from what a user holds; see `RawSpectrum.from_arrays`, which calls this.

    Raises
    ------
    UsageError
        If the arguments contradict each other, or a unit cannot be what it is given for.
    RejectedInput
        If the numbers are no spectrum.
    """
    if medium not in ("vacuum", "air"):
        raise UsageError(f"medium {medium!r} is unknown.", 'give medium="vacuum" or medium="air".')
    waves, axis_unit, wave_bad = _take_vector(wave, "wave")
    fluxes, flux_unit, flux_bad = _take_vector(flux, "flux")
    weights, weight_bad = _take_ivar(ivar, sigma, fluxes.size, flux_unit)
    _require_length("wave", waves, fluxes)
    bad = flux_bad | weight_bad
    if mask is not None:
        flagged, _, unknown = _take_vector(mask, "mask")
        _require_length("mask", flagged, fluxes)
        bad |= (flagged != 0) | unknown
    wave_aa, is_reciprocal = _to_angstrom(waves, _choose_unit(axis_unit, wave_unit))
    factor = _factor_to_flam(flux_unit, wave_aa, is_reciprocal=is_reciprocal)
    if factor is not None:
        with np.errstate(invalid="ignore"):
            fluxes, weights = fluxes * factor, weights / factor**2
    if medium == "air":
        wave_aa = air_to_vacuum(wave_aa)
    # A pixel that lies nowhere cannot be kept, not even as a bad one.
    placed = ~wave_bad & np.isfinite(wave_aa) & (wave_aa > 0)
    if np.count_nonzero(placed) < 2:
        raise RejectedInput(
            f"only {np.count_nonzero(placed)} of {waves.size} wavelengths are positive numbers.",
            "give a wavelength for every pixel.",
        )
    order = np.flatnonzero(placed)[np.argsort(wave_aa[placed], kind="stable")]
    wave_aa = wave_aa[order]
    _refuse_repeats(wave_aa)
    cleaned = clean_pixels(fluxes[order], weights[order], bad[order], mask_name="the mask")
    if cleaned.why_empty:
        raise RejectedInput(
            f"no good pixel: {cleaned.why_empty}.", "give ivar > 0 or sigma > 0 for good pixels."
        )
    had_nonfinite = cleaned.had_nonfinite or not placed.all()
    return PixelArrays(wave_aa, cleaned.flux, cleaned.ivar, had_nonfinite)


def read_specutils(spectrum: Any, *, medium: str | None = None) -> PixelArrays:
    """One spectrum from a specutils object; see `RawSpectrum.from_arrays`.

    Parameters
    ----------
    spectrum : specutils.Spectrum or Spectrum1D
        Of one dimension, with an uncertainty.
    medium : {"vacuum", "air"}, optional
        None takes the word of the WCS (``AWAV``), or of the keywords VACUUM and AIRORVAC of the
        header that came with it, and takes vacuum otherwise.

    Raises
    ------
    UsageError, RejectedInput
        As `read_arrays`; also if there is no uncertainty, or more than one spectrum.
    """
    if spectrum.flux.ndim != 1:
        raise RejectedInput(
            f"the object holds spectra of shape {spectrum.flux.shape}.",
            "give one at a time: spectrum[i].",
        )
    if medium is None:
        medium = "air" if _specutils_in_air(spectrum) else "vacuum"
    return read_arrays(
        spectrum.spectral_axis,
        spectrum.flux,
        ivar=_ivar_of_uncertainty(spectrum.uncertainty, spectrum.flux.unit),
        mask=spectrum.mask,
        medium=medium,
    )


def is_specutils(thing: Any) -> bool:
    """Whether `thing` is a specutils spectrum, of any version, told without importing specutils."""
    return hasattr(thing, "spectral_axis") and hasattr(thing, "flux")


def says_vacuum(value: object) -> bool | None:
    """What a VACUUM keyword says, however it was written; None where it says nothing.

    FITS has a logical type, yet IDL writes 0 and 1, and tables bring texts.

    Examples
    --------
    >>> [says_vacuum(value) for value in (True, 1, "T", " true ", "vacuum")]
    [True, True, True, True, True]
    >>> [says_vacuum(value) for value in (False, 0, 0.0, "F", "no", "AIR", b"f")]
    [False, False, False, False, False, False, False]
    >>> [says_vacuum(value) for value in (None, "", "perhaps", float("nan"))]
    [None, None, None, None]
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        word = value.strip().strip("'.").lower()
        if word in ("t", "true", "y", "yes", "1", "1.0", "vac", "vacuum"):
            return True
        return False if word in ("f", "false", "n", "no", "0", "0.0", "air") else None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | float | np.number) and value in (0, 1):
        return bool(value)
    return None


def header_says_air(header: Any) -> bool:
    """Whether a header says that its wavelengths are in air; silence means vacuum.

    Parameters
    ----------
    header : mapping
        Anything with ``get``: VACUUM, AIRORVAC and CTYPE1 are asked, in this order.
    """
    vacuum = says_vacuum(header.get("VACUUM"))
    if vacuum is None:
        vacuum = says_vacuum(header.get("AIRORVAC"))
    if vacuum is not None:
        return not vacuum
    return str(header.get("CTYPE1") or "").strip().upper().startswith("AWAV")


def _specutils_in_air(spectrum: Any) -> bool:
    meta = spectrum.meta if isinstance(spectrum.meta, dict) else {}
    header = meta.get("header")
    if header is not None and hasattr(header, "get") and header_says_air(header):
        return True
    fits_wcs = getattr(getattr(spectrum, "wcs", None), "wcs", None)
    return any(str(name).upper().startswith("AWAV") for name in getattr(fits_wcs, "ctype", ()))


def _take_vector(values: Any, name: str) -> tuple[np.ndarray, Any, np.ndarray]:
    """Numbers, unit (None without one) and which of them are masked."""
    unit = getattr(values, "unit", None)
    masked = getattr(values, "mask", None)
    plain = getattr(values, "value", values) if unit is not None else values
    plain = getattr(plain, "unmasked", plain)
    if isinstance(plain, np.ma.MaskedArray):
        plain = plain.filled(np.nan) if plain.dtype.kind == "f" else plain.data
    try:
        numbers = np.asarray(plain)
        if numbers.dtype.kind not in "biuf":
            if numbers.dtype.kind != "O":
                raise TypeError(f"{numbers.dtype} values")
            numbers = numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"{name} is no vector of numbers ({line}).",
            f"give {name} as a list, a numpy array or one astropy Quantity.",
        ) from None
    if numbers.ndim != 1:
        remedy = f"give one spectrum at a time, such as {name}[0]."
        if numbers.ndim == 0:
            remedy = f"give {name} as a list or an array."
        raise UsageError(f"{name} has shape {numbers.shape}, a spectrum is a vector.", remedy)
    bad = np.zeros(numbers.size, dtype=bool)
    if masked is not None and np.shape(masked) in ((), numbers.shape):
        bad |= np.asarray(masked, dtype=bool)
    if unit is not None and str(unit) == "":
        unit = None  # dimensionless: a normalised flux, or wavelengths whose unit was lost
    return numbers, unit, bad


def _require_length(name: str, values: np.ndarray, flux: np.ndarray) -> None:
    if values.size == flux.size:
        return
    remedy = "give one value for each pixel of flux."
    if name == "wave" and values.size == flux.size + 1:
        remedy = "edges of pixels? give their centres, 0.5 * (wave[1:] + wave[:-1])."
    raise UsageError(f"{name} has {values.size} values, flux {flux.size}.", remedy)


def _take_ivar(ivar: Any, sigma: Any, n_pix: int, flux_unit: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inverse variance in the unit of the flux, and which pixels are masked in it."""
    if (ivar is None) == (sigma is None):
        raise UsageError(
            "give either ivar or sigma, not both."
            if ivar is not None
            else "the spectrum has no uncertainty.",
            "pass ivar=... (inverse variance) or sigma=... (standard deviation) for each pixel.",
        )
    name, given, power = ("ivar", ivar, -2) if sigma is None else ("sigma", sigma, 1)
    if hasattr(given, "represent_as"):
        given = _ivar_of_uncertainty(given, flux_unit)
        name, power = "ivar", -2
    if np.ndim(given) == 0 and not isinstance(given, str):
        # One number for all pixels.
        one = getattr(given, "value", given)
        filled = np.full(n_pix, np.asarray(one, dtype=np.float64))
        unit = getattr(given, "unit", None)
        given = filled if unit is None else filled * unit
    values, unit, bad = _take_vector(given, name)
    if values.size != n_pix:
        raise UsageError(
            f"{name} has {values.size} values, flux {n_pix}.",
            "give one value for each pixel of flux, or one for all.",
        )
    values = np.asarray(values, dtype=values.dtype if values.dtype.kind == "f" else np.float64)
    if unit is not None:
        values = values * _convert_uncertainty(unit, flux_unit, power, name)
    if power == 1:
        values = values.astype(np.float64)  # the square of a small unit leaves single precision
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            # NaN stays NaN: it is counted among what was not finite.
            values = np.where(values > 0, 1.0 / np.square(values), np.minimum(values, 0))
            values = np.where(np.isinf(values), 0, values)
    return values, bad


def _convert_uncertainty(unit: Any, flux_unit: Any, power: int, name: str) -> float:
    import astropy.units as u

    if flux_unit is None:
        raise UsageError(
            f"{name} has the unit {unit} and flux has none.",
            f"give flux as a Quantity too, or {name} without a unit.",
        )
    try:
        return float(u.Unit(unit).to(u.Unit(flux_unit) ** power))
    except u.UnitConversionError:
        wanted = u.Unit(flux_unit) ** power
        raise UsageError(
            f"{name} has the unit {unit}, which is none of {wanted}.",
            f"convert it: {name}.to('{wanted}').",
        ) from None


def _ivar_of_uncertainty(uncertainty: Any, flux_unit: Any) -> Any:
    """Inverse variance of an astropy uncertainty, with its unit if it has one."""
    from astropy.nddata import InverseVariance

    if uncertainty is None:
        raise RejectedInput(
            "the spectrum gives no uncertainty.",
            "add one, such as uncertainty=astropy.nddata.StdDevUncertainty(sigma).",
        )
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            converted = uncertainty.represent_as(InverseVariance)
    except (TypeError, ValueError, AttributeError):
        raise RejectedInput(
            f"an uncertainty of type {type(uncertainty).__name__} cannot be converted.",
            "use StdDevUncertainty, VarianceUncertainty or InverseVariance of astropy.nddata.",
        ) from None
    array = np.asarray(converted.array)
    # A standard deviation of 0 says that nothing is known, not that everything is.
    array = np.where(np.isinf(array), 0, array)
    return array if converted.unit is None or flux_unit is None else array * converted.unit


def _choose_unit(axis_unit: Any, wave_unit: Any) -> Any:
    if axis_unit is not None and wave_unit is not None and str(axis_unit) != str(wave_unit):
        raise UsageError(
            f"wave carries the unit {axis_unit}, wave_unit says {wave_unit}.", "give only one."
        )
    return axis_unit if axis_unit is not None else wave_unit


def _to_angstrom(wave: np.ndarray, unit: Any) -> tuple[np.ndarray, bool]:
    """Wavelengths in Angstrom, and whether they came as frequencies, energies or wavenumbers."""
    wave = np.asarray(wave, dtype=np.float64)
    if unit is None:
        _refuse_other_scales(wave)
        return wave, False
    factor = _ANGSTROM_OF.get(str(unit).strip().lower())
    if factor is not None:
        return wave * factor, False
    import astropy.units as u

    try:
        parsed = u.Unit(unit)
    except (ValueError, TypeError):
        raise UsageError(
            f"wavelength unit {unit!r} is unknown.", "give wave_unit='Angstrom', 'nm' or 'um'."
        ) from None
    try:
        if parsed.is_equivalent(u.AA):
            return wave * float(parsed.to(u.AA)), False
        with np.errstate(divide="ignore"):
            return np.asarray((wave * parsed).to_value(u.AA, equivalencies=u.spectral())), True
    except u.UnitConversionError:
        raise UsageError(
            f"{parsed} is no unit of wavelength.",
            "give wavelengths with wave_unit='Angstrom', 'nm' or 'um'.",
        ) from None


def _refuse_other_scales(wave: np.ndarray) -> None:
    """Numbers without a unit are Angstrom; say so where they cannot be."""
    known = wave[np.isfinite(wave) & (wave > 0)]
    if known.size < 2:
        return
    low, high = float(known.min()), float(known.max())
    run = f"wavelengths run {low:.5g}-{high:.5g}"
    if high >= 1e9:
        guess, remedy = "frequencies?", "give them as a Quantity or with wave_unit='Hz'."
    elif 100.0 <= high < 2500.0:
        guess, remedy = "nanometres?", "give them as a Quantity or with wave_unit='nm'."
    elif high < 10.0 and low > 7.0:
        guess, remedy = "natural logarithms of Angstrom?", "give np.exp(wave)."
    elif high < 5.0 and low > 3.0 and high / low < 1.35:
        guess, remedy = "log10 of Angstrom?", "give 10**wave."
    elif high < 30.0:
        guess, remedy = "microns?", "give them as a Quantity or with wave_unit='um'."
    elif high < 2500.0:
        guess, remedy = "in which unit?", "give Angstrom, or another unit with wave_unit='...'."
    else:
        return
    raise RejectedInput(f"{run}: {guess}", remedy)


def _factor_to_flam(
    unit: Any, wave_aa: np.ndarray, *, is_reciprocal: bool
) -> np.ndarray | float | None:
    """Factor that makes flux a density per wavelength, 1 at mid-spectrum; None where it is one."""
    if unit is None:
        if is_reciprocal:
            raise UsageError(
                "flux has no unit and pixels come as frequencies: per Hz or per Angstrom?",
                "give flux as a Quantity, such as flux * u.Jy, or wavelengths.",
            )
        return None
    import astropy.units as u

    flam = u.erg / u.s / u.cm**2 / u.AA
    parsed = u.Unit(unit)
    if isinstance(parsed, u.function.FunctionUnitBase) or parsed.is_equivalent(u.mag):
        raise UsageError(f"flux is in {parsed}, a logarithm.", "give a linear flux: flux.to('Jy').")
    if parsed.physical_type in _NO_FLUX:
        raise UsageError(
            f"flux has the unit {parsed}, which is no unit of flux.",
            "give a density such as erg/(s cm2 Angstrom) or Jy, counts, or plain numbers.",
        )
    if parsed.is_equivalent(flam):
        return None
    known = np.isfinite(wave_aa) & (wave_aa > 0)
    if not known.any():
        return None
    factor = np.ones(wave_aa.size)
    try:
        at = u.spectral_density(wave_aa[known] * u.AA)
        factor[known] = np.ones(int(known.sum())) * (1 * parsed).to_value(flam, equivalencies=at)
    except u.UnitConversionError:
        return None  # counts, or any other linear unit, taken per pixel of wavelength
    return factor / float(np.median(factor[known]))


def _refuse_repeats(wave_aa: np.ndarray) -> None:
    repeats = np.flatnonzero(np.diff(wave_aa) <= 0)
    if repeats.size:
        raise RejectedInput(
            f"{repeats.size} wavelengths are repeated, the first {wave_aa[repeats[0]]:.4f} A.",
            "keep one pixel of each: wave, first = np.unique(wave, return_index=True); "
            "flux = flux[first].",
        )


def _native_float(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    kind = values.dtype.newbyteorder("=") if values.dtype.kind == "f" else np.dtype(np.float64)
    return np.ascontiguousarray(values, dtype=kind)
