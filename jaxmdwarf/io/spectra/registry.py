"""Readers of spectra: the package's own, those of installed packages, and those of users.

A reader needs no change in the package. In a module of your own::

    from jaxmdwarf.io.spectra import SpectrumReader, SpectrumRecord, register_reader

    def matches(file):
        return file.header.get("INSTRUME") == "MINE"

    def read(file):
        with file.open() as hdus:
            table, header = hdus[1].data, hdus[0].header
            return [
                SpectrumRecord.from_arrays(
                    file.path, table["WAVE"], flux, sigma=error, wave_unit="nm", obsid=header["ID"]
                )
                for flux, error in zip(table["FLUX"], table["ERR"])
            ]

    register_reader(SpectrumReader("my-survey", matches, read))

A package declares its readers under the entry point group ``jaxmdwarf.readers``, and then they are
there wherever it is installed, the command line included::

    [project.entry-points."jaxmdwarf.readers"]
    my-survey = "my_package.reading:READER"

Files are told by content: each reader is asked whether a file is its own, and the first that says
yes reads it. Registered readers are asked first, the newest before older ones; then those of entry
points; then the package's own, in the order of `list_readers`. Reader processes know registered
readers too, if their module can be imported; readers that stand in a script or a notebook itself
work in the calling process alone (see `jaxmdwarf.io.registry`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxmdwarf.io.registry import Registry
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.records import Found

R = TypeVar("R")


@dataclass(frozen=True)
class SpectrumReader:
    """How files of one format are told from others and read.

    Any object with these three attributes is a reader.

    Parameters
    ----------
    name : str
        By which it is known and replaced.
    matches : callable
        Takes a `SpectrumFile`, says whether it is of this format. It is asked for every file that
        no earlier reader took, and should look at ``file.header``, ``file.extensions`` or
        ``file.head`` alone.
    read : callable
        Takes a `SpectrumFile`, returns its 1 to n spectra in their order: a `SpectrumRecord` each,
        or a `RejectedInput` in the place of one that cannot be used. Raises `RejectedInput` where
        nothing in the file can.
    """

    name: str
    matches: Callable[[SpectrumFile], bool]
    read: Callable[[SpectrumFile], Sequence[Found]]


def _built_in() -> tuple[SpectrumReader, ...]:
    from jaxmdwarf.io.spectra import by_specutils, desi, lamost, lamost_mrs, sdss, sdss_mwm

    # LAMOST first, since it is asked most and answers fastest; SDSS after the medium-resolution
    # files of LAMOST, whose tables have the same columns; specutils last, which takes all the rest.
    return (
        SpectrumReader("lamost", lamost.matches, lamost.read),
        SpectrumReader("lamost-mrs", lamost_mrs.matches, lamost_mrs.read),
        SpectrumReader("sdss", sdss.matches, sdss.read),
        SpectrumReader("sdss-mwm", sdss_mwm.matches, sdss_mwm.read),
        SpectrumReader("desi", desi.matches, desi.read),
        SpectrumReader("specutils", by_specutils.matches, by_specutils.read),
    )


READERS: Registry[SpectrumReader] = Registry(
    "jaxmdwarf.io.spectra.registry:READERS",
    what="spectrum reader",
    group="jaxmdwarf.readers",
    built_in=_built_in,
    needs=("matches", "read"),
)


def register_reader(reader: R) -> R:
    """Have a reader asked before all others; one of the same name is replaced.

    Parameters
    ----------
    reader : SpectrumReader
        Or any object with name, matches and read.

    Returns
    -------
    SpectrumReader
        The reader.

    Raises
    ------
    UsageError
        If it lacks one of the three.
    """
    READERS.add(reader)  # type: ignore[arg-type]
    return reader


def unregister_reader(name: str) -> None:
    """Forget a registered reader.

    Raises
    ------
    UsageError
        If none of this name was registered.
    """
    READERS.remove(name)


def list_readers() -> tuple[str, ...]:
    """Names of all readers in the order in which they are asked.

    Examples
    --------
    >>> list_readers()[-6:]
    ('lamost', 'lamost-mrs', 'sdss', 'sdss-mwm', 'desi', 'specutils')
    """
    return tuple(reader.name for reader in READERS.entries())
