"""LAMOST low-resolution spectra, in the three layouts that its data releases used.

===================  =========================================================================
layout               content
===================  =========================================================================
lamost-subcontinuum  DR1 era: image (5, n) of flux, ivar, flux over continuum, and-mask, or-mask
lamost-wavelength    to DR8: image (5, n) of flux, ivar, wavelength, and-mask, or-mask
lamost-coadd         DR9 and later: empty primary, table COADD with one row of vector columns
===================  =========================================================================

The layout is told by content, never by name or release: the third row of an image is a wavelength
row if its values, whatever their order, run through the wavelengths of the header. An image without
one is taken for the oldest layout only if its numbers are what that layout holds: inverse variances
that are finite and not negative but for a few pixels, flux below `LARGEST_FLUX`, one solution in
the header.

Masks: a pixel is bad if the and-mask is not 0, that is, if any of its bits (bad CCD pixel, bad
profile, no sky, bright sky, bad centre, no data) was set in every exposure. The or-mask does not
count: it is set where a single exposure was hit, which the co-addition has already rejected. Both
are whole numbers of 16 bits, and what was set in all exposures was set in one: masks of which that
is not true are damaged.

Wavelengths: log10(wave) = COEFF0 + COEFF1 i, vacuum, heliocentric. The wavelength row repeats this
in single precision (to about 0.003 Angstrom); where they agree to `SAME_SOLUTION` the header is
taken, else the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels, header_says_air
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_bytes import BLOCK, UnusualFits, columns_of, image_of, vector_of
from jaxmdwarf.io.spectra.files import Header, SpectrumFile
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    LogGrid,
    SpectrumRecord,
    expand_log_grid,
    number_or_nan,
    text_or_empty,
    whole_or_none,
)
from jaxmdwarf.wavelengths import air_to_vacuum

SAME_SOLUTION = 3e-6
"""Relative difference (1 km/s) below which wavelength row and header are one solution."""

N_ROWS = 5
LARGEST_MASK = 65_535
LARGEST_FLUX = 1e8
"""Counts above this are no spectrum: the detectors have 16 bits a pixel."""

COADD_COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK")
OR_MASK = "ORMASK"
MOST_BROKEN = 0.01
"""Share of pixels of the oldest layout that may hold no number, or a negative inverse variance."""


def matches(file: SpectrumFile) -> bool:
    """Whether the primary image has five rows, or the first table is a COADD of one row."""
    if not file.is_fits:
        return False
    header = file.header
    if _is_foreign(header):
        return False
    if header.get("NAXIS") != 0:
        n_row, n_pix = header.get("NAXIS2"), header.get("NAXIS1")
        is_image = header.get("NAXIS") == 2 and n_row == N_ROWS
        return is_image and isinstance(n_pix, int) and n_pix >= 2 * N_ROWS
    return set(COADD_COLUMNS) <= set(file.columns(1)) and file.header_of(1).get("NAXIS2") == 1


def read(file: SpectrumFile) -> list[SpectrumRecord]:
    """The spectrum of a file that `matches`, in any of the three layouts.

    Raises
    ------
    RejectedInput
        If the file is damaged.
    """
    if len(file.data) % BLOCK:
        raise RejectedInput(
            f"the file is {len(file.data)} bytes long, which no FITS file is.",
            "it is damaged or cut: download it again.",
        )
    try:
        return [_decode_lean(file)]
    except UnusualFits:
        return [_decode_with_astropy(file)]


def _decode_lean(file: SpectrumFile) -> SpectrumRecord:
    primary = file.hdu(0)
    assert primary is not None
    image = image_of(file.data, primary)
    if image is not None:
        return _decode_image(primary.header, image, file.path)
    table = file.hdu(1)
    if table is None:
        raise RejectedInput("damaged header: the image has no pixels.", "download the file again.")
    columns = columns_of(table)
    names = [*COADD_COLUMNS, *([OR_MASK] if OR_MASK in columns else [])]
    vectors = [vector_of(file.data, table, columns[name]) for name in names]
    return _decode_coadd(primary.header, vectors, file.path)


def _decode_with_astropy(file: SpectrumFile) -> SpectrumRecord:
    with file.open() as hdus:
        header = hdus[0].header
        # astropy leaves a unit whose first card is damaged without data.
        image = getattr(hdus[0], "data", None)
        if image is not None:
            return _decode_image(header, np.asarray(image), file.path)
        table = getattr(hdus[1], "data", None) if len(hdus) > 1 else None
        if table is None:
            raise RejectedInput("the file holds no pixels.", "download the file again.")
        names = {name.upper(): name for name in table.dtype.names or ()}
        found = [*COADD_COLUMNS, *([OR_MASK] if OR_MASK in names else [])]
        vectors = [np.ravel(table[names[name]][0]) for name in found]
        return _decode_coadd(header, vectors, file.path)


def _is_foreign(header: Header) -> bool:
    # The old spSpec files of SDSS are images of five rows with COEFF0 too, of other meaning.
    return text_or_empty(header.get("TELESCOP")).upper().startswith("SDSS")


def _decode_image(header: Any, image: np.ndarray, path: str) -> SpectrumRecord:
    flux, ivar, third, and_mask, or_mask = image
    bad = _read_masks(and_mask, or_mask)
    grid = _header_grid(header, flux.size)
    if _runs_through_wavelengths(third, grid):
        return _assemble(header, flux, ivar, bad, grid, third, "lamost-wavelength", path)
    if grid is None:
        raise RejectedInput(
            "no wavelength row, and keywords COEFF0 and COEFF1 are missing.",
            "restore the keywords of the wavelength solution or download the file again.",
        )
    _require_plausible(header, flux, ivar)
    return _assemble(header, flux, ivar, bad, grid, None, "lamost-subcontinuum", path)


def _decode_coadd(header: Any, vectors: list[np.ndarray], path: str) -> SpectrumRecord:
    flux, ivar, wave, and_mask = vectors[:4]
    if len({vector.size for vector in vectors}) != 1:
        raise RejectedInput(
            "columns of the COADD table differ in length.", "download the file again."
        )
    grid = _header_grid(header, flux.size)
    bad = _read_masks(and_mask, *vectors[4:])
    return _assemble(header, flux, ivar, bad, grid, wave, "lamost-coadd", path)


def _header_grid(header: Any, n_pix: int) -> LogGrid | None:
    for keys in (("COEFF0", "COEFF1"), ("CRVAL1", "CD1_1")):
        coeff0, coeff1 = (number_or_nan(header.get(key)) for key in keys)
        # Bounds in log10(Angstrom): a linear solution under the same keys fails them.
        if 3.0 < coeff0 < 4.5 and 1e-6 < coeff1 < 1e-2:
            return LogGrid(coeff0, coeff1, n_pix)
    return None


def _runs_through_wavelengths(row: np.ndarray, grid: LogGrid | None) -> bool:
    """Whether `row` holds wavelengths, even if they are in disorder."""
    if grid is not None:
        expected = expand_log_grid(grid)
        # Plain numbers: this is asked of every file, and numpy takes long over two of them.
        first, last, least, most = (float(x) for x in (row[0], row[-1], expected[0], expected[-1]))
        near = abs(first - least) <= 0.01 * least and abs(last - most) <= 0.01 * most
        if near and row[1] > row[0]:
            return True
    inside = (row > 2500.0) & (row < 15000.0)
    if inside.mean() < 0.9:
        return False
    # Flux over continuum is about one; only wavelengths fill such a range evenly.
    values = np.sort(np.asarray(row[inside], dtype=np.float64))
    steps = np.diff(values)
    return bool(values[-1] > 1.2 * values[0] and np.quantile(steps, 0.99) < 0.01 * values[0])


def _assemble(
    header: Any,
    flux: np.ndarray,
    ivar: np.ndarray,
    bad: np.ndarray,
    grid: LogGrid | None,
    wave: np.ndarray | None,
    layout: str,
    path: str,
) -> SpectrumRecord:
    pixels: LogGrid | np.ndarray
    if wave is None:
        assert grid is not None
        pixels = grid
    elif grid is not None and _same_solution(wave, grid):
        pixels = grid
    else:
        pixels = np.asarray(wave, dtype=np.float64)
    if header_says_air(header):
        pixels = air_to_vacuum(expand_log_grid(pixels) if isinstance(pixels, LogGrid) else pixels)
    cleaned = clean_pixels(flux, ivar, bad, mask_name="the and-mask")
    meta = NO_HEADER | {
        "path": path,
        "obsid": _identifier(header),
        "designation": text_or_empty(header.get("DESIG")),
        "survey": "LAMOST",
        "layout": layout,
        "ra_deg": number_or_nan(header.get("RA")),
        "dec_deg": number_or_nan(header.get("DEC")),
        "z": number_or_nan(header.get("Z")),
        "snr_r": number_or_nan(header.get("SNRR", header.get("SN_R"))),
        "snr_i": number_or_nan(header.get("SNRI", header.get("SN_I"))),
        "subclass": text_or_empty(header.get("SUBCLASS")),
        "object_class": text_or_empty(header.get("CLASS")),
        "had_nonfinite": cleaned.had_nonfinite,
    }
    return SpectrumRecord(pixels, cleaned.flux, cleaned.ivar, meta, cleaned.why_empty)


def _read_masks(and_mask: np.ndarray, or_mask: np.ndarray | None = None) -> np.ndarray:
    """Which pixels are bad; layouts without a mask's content are damaged or something else."""
    bits = [_read_bits("and-mask", and_mask)]
    bits += [] if or_mask is None else [_read_bits("or-mask", or_mask)]
    if len(bits) > 1 and np.any(bits[0] & ~bits[1]):
        raise RejectedInput(
            "bits of the and-mask are not in the or-mask.",
            "the file is damaged or no LAMOST spectrum: download it again.",
        )
    return bits[0] != 0


def _read_bits(name: str, mask: np.ndarray) -> np.ndarray:
    """A mask as whole numbers."""
    if not mask.any():  # as most are
        return np.zeros(mask.shape, np.int32)
    values = mask.astype(np.float64)
    if not ((values >= 0) & (values <= LARGEST_MASK) & (values == np.rint(values))).all():
        raise RejectedInput(
            f"the {name} holds numbers that are no mask.",
            "the file is damaged or no LAMOST spectrum: download it again.",
        )
    return values.astype(np.int32)


def _require_plausible(header: Any, flux: np.ndarray, ivar: np.ndarray) -> None:
    """Refuse an image without wavelengths whose numbers are not those of a spectrum."""
    wrong = ""
    finite = np.isfinite(flux)
    if (~np.isfinite(ivar) | (ivar < 0)).mean() > MOST_BROKEN:
        wrong = "its second row is no inverse variance"
    elif (np.abs(flux[finite]) > LARGEST_FLUX).any() or finite.mean() < 1 - MOST_BROKEN:
        wrong = f"its first row holds numbers above {LARGEST_FLUX:.0e}, or none"
    for one, other in (("COEFF0", "CRVAL1"), ("COEFF1", "CD1_1")):
        values = [number_or_nan(header.get(key)) for key in (one, other)]
        if np.isfinite(values).all() and abs(values[0] - values[1]) > 1e-6 * abs(values[1]):
            wrong = f"its header says {one} = {values[0]:g} and {other} = {values[1]:g}"
    if wrong:
        raise RejectedInput(
            f"an image of five rows without wavelengths, and {wrong}.",
            "the file is damaged or no LAMOST spectrum: download it again.",
        )


def _same_solution(wave: np.ndarray, grid: LogGrid) -> bool:
    expected = expand_log_grid(grid)
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((np.abs(wave - expected) < SAME_SOLUTION * expected).all())


def _identifier(header: Any) -> str:
    """OBSID, or, before it existed, date, plan, spectrograph and fibre: unique and stable."""
    obsid = header.get("OBSID")
    if obsid is not None and text_or_empty(obsid):
        if isinstance(obsid, float):
            number = whole_or_none(obsid)
            return "" if number is None else str(number)
        return text_or_empty(obsid)
    date, plan = header.get("LMJD", header.get("MJD")), text_or_empty(header.get("PLANID"))
    day, spectrograph, fibre = map(whole_or_none, (date, header.get("SPID"), header.get("FIBERID")))
    if day is None or not plan or spectrograph is None or fibre is None:
        return ""
    return f"{day}-{plan}_sp{spectrograph:02d}-{fibre:03d}"
