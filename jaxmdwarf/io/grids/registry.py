"""Readers of model grids: the package's own, those of installed packages, and those of users.

As for spectra (`jaxmdwarf.io.spectra.registry`), a reader needs no change in the package. In a
module of your own::

    from jaxmdwarf.io.grids import GridLabels, GridReader, finish, register_grid_reader

    def matches(name, head):
        return head.startswith(b"#MARCS")

    def read(data, name, *, air=None, wanted=None):
        wave, flux = ...  # Angstrom, and erg/s/cm2/A at the surface of the star
        labels = GridLabels(teff, logg, mh, alpha_m)
        return finish(wave, flux, labels, layout="marcs", air=bool(air), wanted=wanted)

    register_grid_reader(GridReader("marcs", matches, read))

Packages declare readers under the entry point group ``jaxmdwarf.grid_readers``. Registered readers
are asked first, the newest before older ones, then those of entry points, then the package's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jaxmdwarf.io.grids import btsettl_fits, btsettl_text, phoenix_aces, svo_text
from jaxmdwarf.io.grids.native import NativeSpectrum
from jaxmdwarf.io.registry import Registry

R = TypeVar("R")


@dataclass(frozen=True)
class GridReader:
    """How model files of one format are told from others and read.

    Any object with these three attributes is a reader.

    Parameters
    ----------
    name : str
        By which it is known and replaced.
    matches : callable
        ``matches(name, head)``: whether a file with this path whose decompressed content begins
        with `head` (some 20 kB) is of this format.
    read : callable
        ``read(data, name, *, air=None, wanted=None)``: the `NativeSpectrum` in the decompressed
        bytes of a file; `air` overrides the wavelength scale of the format, `wanted` is the
        `WaveRange` to keep. Ends in `finish`, which sorts and checks. Raises `RejectedInput`.
    """

    name: str
    matches: Callable[[str, bytes], bool]
    read: Callable[..., NativeSpectrum]


def _built_in() -> tuple[GridReader, ...]:
    modules = (svo_text, phoenix_aces, btsettl_fits, btsettl_text)
    return tuple(GridReader(one.LAYOUT, one.matches, one.read) for one in modules)


GRID_READERS: Registry[GridReader] = Registry(
    "jaxmdwarf.io.grids.registry:GRID_READERS",
    what="grid reader",
    group="jaxmdwarf.grid_readers",
    built_in=_built_in,
    needs=("matches", "read"),
)


def register_grid_reader(reader: R) -> R:
    """Have a reader of model files asked before all others; one of the same name is replaced.

    Parameters
    ----------
    reader : GridReader
        Or any object with name, matches and read.

    Raises
    ------
    UsageError
        If it lacks one of the three.
    """
    GRID_READERS.add(reader)  # type: ignore[arg-type]
    return reader


def unregister_grid_reader(name: str) -> None:
    """Forget a registered reader.

    Raises
    ------
    UsageError
        If none of this name was registered.
    """
    GRID_READERS.remove(name)


def list_grid_readers() -> tuple[str, ...]:
    """Names of all readers of model files in the order in which they are asked.

    Examples
    --------
    >>> list_grid_readers()[-4:]
    ('svo-text', 'phoenix-aces', 'btsettl-fits', 'btsettl-text')
    """
    return tuple(reader.name for reader in GRID_READERS.entries())
