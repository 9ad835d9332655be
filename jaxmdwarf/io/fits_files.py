"""FITS opened with astropy, its cards held against the file first."""

from __future__ import annotations

import contextlib
import io
import mmap
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.fits_bytes import Data, require_sane_cards


@contextlib.contextmanager
def open_fits(data: Data, path: str = "") -> Iterator[Any]:
    """An `astropy.io.fits.HDUList` of the bytes of a file.

    Parameters
    ----------
    data : bytes or mmap
        Content of the file, decompressed; one on disk is opened by its path, in pieces.
    path : str
        Where it is.

    Raises
    ------
    RejectedInput
        If it is damaged; also for anything that astropy raises within the block. What is raised
        by others there is left as it is.
    """
    from astropy.io import fits

    require_sane_cards(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(data, mmap.mmap):
                opened = fits.open(path, memmap=True)
            else:
                opened = fits.open(io.BytesIO(data), memmap=False)
            with opened as hdus:
                yield hdus
    except RejectedInput:
        raise
    except Exception as error:  # astropy raises many kinds for damaged files
        if not _is_of_astropy(error):
            raise  # a defect is no property of the file
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RejectedInput(f"not readable as FITS ({line}).", "download the file again.") from None


def read_data(hdu: Any) -> Any:
    """Image or table of a unit.

    Raises
    ------
    RejectedInput
        If astropy can make nothing of it.
    """
    data = getattr(hdu, "data", None)
    if data is None:
        raise RejectedInput(
            f"HDU {getattr(hdu, 'name', '') or '?'} holds no data that can be read.",
            "download the file again.",
        )
    return data


def read_numbers(values: Any, name: str) -> np.ndarray:
    """A column or an image as an array of numbers, as it is.

    Raises
    ------
    RejectedInput
        If it holds texts, or vectors of varying length.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "iufb":
        raise RejectedInput(f"{name} holds no numbers.", "download the file again.")
    return values


def _is_of_astropy(error: Exception) -> bool:
    """Whether it was raised in astropy, or in what astropy called, and not by a caller of it."""
    import astropy

    package = Path(astropy.__file__).parent
    named = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)[1:]]
    # The libraries below raise for both: whoever called them last has to answer.
    known = [name for name in named if _OWN in name.parents or package in name.parents]
    return bool(known) and package in known[-1].parents


_OWN = Path(__file__).parents[1]
