"""DESI spectra: ``coadd-*`` and ``spectra-*`` files, many targets in up to three arms.

For each arm (B, R, Z; BRZ where arms were joined already) a file has images WAVELENGTH (n_pix),
FLUX, IVAR and MASK (n_spec, n_pix), and a table FIBERMAP with a row a spectrum. Wavelengths are
vacuum and barycentric. Each row becomes one spectrum: of a target in coadd files, of an exposure of
a target in spectra files.

Arms: pixels of two arms that lie at one wavelength, as DESI's do, are averaged with their ivar as
weights (which is what desispec's co-addition across cameras does); where grids differ, each arm
ends at the middle of the overlap.

Masks: a pixel is bad in an arm if any bit of that arm's MASK is set, as in DESI's own redshift
code; coadd files keep a bit only where all exposures had it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmdwarf.arrays import clean_pixels
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_files import read_data, read_numbers
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import (
    NO_HEADER,
    Found,
    SpectrumRecord,
    number_or_nan,
    text_or_empty,
)

_SAME_AA = 0.01
"""Pixels of two arms this close are one pixel: a hundredth of DESI's sampling."""


def matches(file: SpectrumFile) -> bool:
    """Whether there are images of wavelength, flux and inverse variance of an arm."""
    return file.is_fits and bool(_list_arms(file.extensions))


def read(file: SpectrumFile) -> list[Found]:
    """One spectrum for each row of the file, its arms joined; sky fibres are named as such.

    Raises
    ------
    RejectedInput
        If the file is damaged, or its images and FIBERMAP do not belong together.
    """
    with file.open() as hdus:
        arms = [_read_arm(hdus, arm) for arm in _list_arms(file.extensions)]
        fibermap = read_data(hdus["FIBERMAP"]) if "FIBERMAP" in file.extensions else None
        about = _read_fibermap(fibermap, len(arms[0][1]))
    n_spec = {len(flux) for _, flux, _ in arms}
    if len(n_spec) != 1:
        raise RejectedInput(
            f"arms hold different numbers of spectra: {sorted(n_spec)}.", "download it again."
        )
    wave, flux, ivar, nonfinite = join_arms(arms)
    found: list[Found] = []
    for number in range(len(flux)):
        row = about[number]
        kind = text_or_empty(row.pop("objtype", ""))
        if kind == "SKY":
            found.append(RejectedInput("a sky fibre (OBJTYPE SKY).", "leave it out."))
            continue
        cleaned = clean_pixels(flux[number], ivar[number])
        meta = NO_HEADER | row
        meta |= {
            "path": file.path,
            "survey": "DESI",
            "layout": "desi",
            "had_nonfinite": bool(nonfinite[number]),
        }
        found.append(
            SpectrumRecord(wave, cleaned.flux, cleaned.ivar, meta, _explain(cleaned.why_empty))
        )
    return found


def join_arms(
    arms: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spectra of several arms on one run of pixels.

    Parameters
    ----------
    arms : list of (wave, flux, ivar)
        Wavelengths (n_pix,) of an arm, increasing; flux and ivar (n_spec, n_pix).

    Returns
    -------
    wave_aa : (n,) float64
        Increasing.
    flux, ivar : (n_spec, n) float32
        Finite; 0 where no arm has a good pixel.
    nonfinite : (n_spec,) bool
        Where flux or ivar held NaN or infinity.
    """
    arms = _part_overlaps(sorted(arms, key=lambda arm: float(arm[0][0])))
    n_spec = len(arms[0][1])
    every = np.sort(np.concatenate([arm[0] for arm in arms]))
    # Rounding differs in the last digits: what lies within a hundredth is one pixel.
    wave = every[np.concatenate([[True], np.diff(every) > _SAME_AA])]
    weighted = np.zeros((n_spec, wave.size), np.float32)
    weights = np.zeros((n_spec, wave.size), np.float32)
    nonfinite = np.zeros(n_spec, bool)
    for arm_wave, flux, ivar in arms:
        at = np.searchsorted(wave, arm_wave + _SAME_AA, side="right") - 1
        broken = ~(np.isfinite(flux) & np.isfinite(ivar))
        nonfinite |= broken.any(axis=1)
        good = np.where(broken | (ivar < 0), 0, ivar).astype(np.float32)
        weighted[:, at] += good * np.where(broken, 0, flux)
        weights[:, at] += good
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = np.where(weights > 0, weighted / weights, 0).astype(np.float32)
    return wave, flux, weights, nonfinite


def _part_overlaps(
    arms: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Arms whose pixels do not coincide end at the middle of their overlap."""
    for left in range(len(arms) - 1):
        right = left + 1
        low, high = float(arms[right][0][0]), float(arms[left][0][-1])
        if low > high:
            continue
        shared = arms[left][0][arms[left][0] >= low - _SAME_AA]
        others = arms[right][0][arms[right][0] <= high + _SAME_AA]
        if shared.size == others.size and np.abs(shared - others).max() < _SAME_AA:
            continue
        middle = 0.5 * (low + high)
        arms[left] = _cut(arms[left], arms[left][0] < middle)
        arms[right] = _cut(arms[right], arms[right][0] >= middle)
    return arms


def _cut(arm: tuple[np.ndarray, np.ndarray, np.ndarray], kept: np.ndarray) -> Any:
    return arm[0][kept], arm[1][:, kept], arm[2][:, kept]


def _list_arms(names: tuple[str, ...]) -> list[str]:
    ending = "_WAVELENGTH"
    arms = [name.removesuffix(ending) for name in names if name.endswith(ending)]
    return [arm for arm in arms if {f"{arm}_FLUX", f"{arm}_IVAR"} <= set(names)]


def _read_arm(hdus: Any, arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wave = read_numbers(read_data(hdus[f"{arm}_WAVELENGTH"]), "WAVELENGTH").astype(np.float64)
    flux, ivar = (
        np.atleast_2d(read_numbers(read_data(hdus[f"{arm}_{name}"]), name).astype(np.float32))
        for name in ("FLUX", "IVAR")
    )
    if wave.ndim != 1 or flux.shape != ivar.shape or flux.shape[1:] != wave.shape:
        raise RejectedInput(
            f"arm {arm} has wavelengths {wave.shape}, flux {flux.shape} and ivar {ivar.shape}.",
            "download the file again.",
        )
    if wave.size < 2 or not (np.diff(wave) > 0).all():
        raise RejectedInput(f"wavelengths of arm {arm} do not increase.", "download it again.")
    if f"{arm}_MASK" in hdus:
        mask = np.atleast_2d(read_numbers(read_data(hdus[f"{arm}_MASK"]), "MASK"))
        if mask.shape == flux.shape:
            ivar = np.where(mask != 0, 0, ivar)
    return wave, flux, ivar


def _read_fibermap(table: Any, n_spec: int) -> list[dict[str, Any]]:
    """Header values of each row."""
    if table is None:
        return [{} for _ in range(n_spec)]
    if len(table) != n_spec:
        raise RejectedInput(
            f"FIBERMAP has {len(table)} rows for {n_spec} spectra.", "download the file again."
        )
    names = {str(name).upper(): name for name in table.dtype.names or ()}
    fields = {
        "obsid": ("TARGETID",),
        "ra_deg": ("TARGET_RA", "MEAN_FIBER_RA", "FIBER_RA"),
        "dec_deg": ("TARGET_DEC", "MEAN_FIBER_DEC", "FIBER_DEC"),
        "objtype": ("OBJTYPE",),
    }
    rows: list[dict[str, Any]] = [{} for _ in range(n_spec)]
    for field, columns in fields.items():
        column = next((names[name] for name in columns if name in names), None)
        if column is None:
            continue
        read = number_or_nan if field.endswith("_deg") else text_or_empty
        for row, value in zip(rows, table[column], strict=True):
            row[field] = read(value)
    return rows


def _explain(why_empty: str) -> str:
    return "ivar is 0 or MASK is set in every pixel of every arm" if why_empty else ""
