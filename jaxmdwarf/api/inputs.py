"""Whatever holds spectra, to spectra: paths, arrays, quantities, specutils objects, lists of these.

One spectrum that cannot be used raises; among several it is set aside with its reason, and the
others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmdwarf.arrays import is_specutils
from jaxmdwarf.errors import RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import stream_spectra
from jaxmdwarf.io.spectra.records import Requirements
from jaxmdwarf.io.stream import require_processes
from jaxmdwarf.spectra import RawSpectrum

_ANY_SPECTRUM = Requirements(min_overlap=-np.inf, min_good_fraction=0.0)
"""Reading asks for a good pixel and no more; what a fit needs is known to the model alone."""

_WAYS = (
    "give a path, a folder or pattern, (wave, flux, ivar), a jm.Spectrum, a specutils spectrum, or "
    "a list of these."
)


class Spectra(list[RawSpectrum]):
    """Spectra in the order in which they were given, and the inputs that could not be used.

    A list, with one attribute more.

    Attributes
    ----------
    rejects : tuple of Reject
        ``(path, reason, remedy, spectrum)`` of each input that was set aside.
    """

    def __init__(self, spectra: Iterable[RawSpectrum] = (), rejects: Iterable[Reject] = ()) -> None:
        super().__init__(spectra)
        self.rejects: tuple[Reject, ...] = tuple(rejects)

    def __repr__(self) -> str:
        lines = [f"{count(len(self), 'spectrum')}, {count(len(self.rejects), 'reject')}"]
        for number, one in enumerate(self[:10]):
            name = name_spectrum(one, number)
            about = f"{one.n_pix} pixels, {one.wave_aa[0]:.0f}-{one.wave_aa[-1]:.0f} Angstrom"
            lines.append(f"  {name}: {about}")
        if len(self) > 10:
            lines.append(f"  ... and {len(self) - 10} more")
        return "\n".join([*lines, *describe_rejects(self.rejects)])


def read(
    x: Any,
    *,
    wave_unit: Any = None,
    medium: str | None = None,
    processes: int | None = None,
) -> Spectra:
    """Read spectra from wherever they are.

    Parameters
    ----------
    x : path, arrays, spectrum, or a list of these
        A file, a folder, a pattern or an ``@list``; ``(wave, flux, ivar)`` as arrays, lists or
        astropy quantities, where `flux` and `ivar` may also be ``(n, n_pix)`` with one `wave` for
        all; an `ivar` may be an astropy uncertainty; a `jaxmdwarf.Spectrum`; a specutils
        ``Spectrum`` or ``Spectrum1D`` of one or more spectra.
    wave_unit : str or astropy Unit, optional
        Of wavelengths in arrays that carry no unit; Angstrom if left out.
    medium : {"vacuum", "air"}, optional
        What the wavelengths of arrays and specutils objects are measured in. Files say it.
    processes : int, optional
        Reader processes for many files; None takes all cores.

    Returns
    -------
    Spectra
        A list, however many there are. ``rejects`` has the others, with reason and remedy.

    Raises
    ------
    RejectedInput
        If `x` is one input and cannot be used.
    WorkFailed
        If none of several can be used.
    UsageError
        If `x` is nothing that holds spectra, or arrays contradict each other.

    Examples
    --------
    >>> import numpy as np
    >>> wave = np.linspace(600.0, 890.0, 2901)
    >>> read((wave, np.ones((3, wave.size)), 100.0), wave_unit="nm")
    3 spectra, 0 rejects
      spectrum 0: 2901 pixels, 6000-8900 Angstrom
      spectrum 1: 2901 pixels, 6000-8900 Angstrom
      spectrum 2: 2901 pixels, 6000-8900 Angstrom
    """
    how = _How(wave_unit, medium, processes)
    if isinstance(x, Spectra):
        return x
    if _is_list(x):
        return _read_list(list(x), how)
    found = _read_one(x, how)
    if not found:
        first = found.rejects[0]
        where = f"{first.path}: " if first.path else ""
        raise RejectedInput(f"{where}{first.reason}.", _sentence(first.remedy))
    return found


def name_spectrum(spectrum: RawSpectrum, number: int | None = None) -> str:
    """How a spectrum is called in texts: by its file, its identifier, or its place in a list."""
    meta = spectrum.meta
    if meta.path:
        return Path(meta.path).name + (f"[{meta.index}]" if meta.index else "")
    if meta.obsid:
        return meta.obsid
    return "spectrum" if number is None else f"spectrum {number}"


def count(number: int, noun: str) -> str:
    """A number and its noun.

    Examples
    --------
    >>> count(1, "spectrum"), count(2, "spectrum"), count(0, "reject")
    ('1 spectrum', '2 spectra', '0 rejects')
    """
    plural = noun.removesuffix("um") + "a" if noun.endswith("um") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def describe_rejects(rejects: Sequence[Reject], most: int = 3) -> list[str]:
    """Lines that say which inputs were set aside, and why."""
    lines = [f"  rejected {one.path}: {one.reason}" for one in rejects[:most]]
    if len(rejects) > most:
        lines.append(f"  ... and {count(len(rejects) - most, 'reject')} more, see .rejects")
    return lines


def keep_usable(
    spectra: Spectra, require: Callable[[RawSpectrum], None], *, single: bool
) -> Spectra:
    """Spectra that pass `require`, which raises `RejectedInput`; the others join the rejects.

    Raises
    ------
    RejectedInput
        Of the one spectrum, if `single`.
    WorkFailed
        If none passes.
    """
    kept, rejects = [], list(spectra.rejects)
    for number, spectrum in enumerate(spectra):
        try:
            require(spectrum)
        except RejectedInput as error:
            if single:
                raise
            meta = spectrum.meta
            name = meta.path or meta.obsid or f"spectrum {number}"
            rejects.append(Reject.from_error(name, error, meta.index if meta.path else None))
        else:
            kept.append(spectrum)
    usable = Spectra(kept, rejects)
    _require_some(usable)
    return usable


class _How:
    """What the caller said about arrays and files."""

    def __init__(self, wave_unit: Any, medium: str | None, processes: int | None) -> None:
        require_processes(processes)
        if medium not in (None, "vacuum", "air"):
            raise UsageError(
                f"medium {medium!r} is unknown.", 'give medium="vacuum" or medium="air".'
            )
        self.wave_unit, self.medium, self.processes = wave_unit, medium, processes


def _read_list(items: list[Any], how: _How) -> Spectra:
    """Several inputs, in order; runs of paths are read together, in parallel."""
    if not items:
        raise UsageError("there is no spectrum: the list is empty.", _WAYS)
    spectra: list[RawSpectrum] = []
    rejects: list[Reject] = []
    paths: list[Any] = []

    def read_paths() -> None:
        if paths:
            found = _read_paths(paths, how)
            spectra.extend(found)
            rejects.extend(found.rejects)
            paths.clear()

    for number, item in enumerate(items):
        if is_path(item):
            paths.append(item)
            continue
        read_paths()
        try:
            found = _read_one(item, how)
        except RejectedInput as error:
            rejects.append(Reject.from_error(f"spectrum {number}", error))
        except UsageError as error:
            raise UsageError(f"item {number}: {error.message}", error.remedy) from None
        else:
            spectra.extend(found)
            rejects.extend(found.rejects)
    read_paths()
    found = Spectra(spectra, rejects)
    _require_some(found)
    return found


def _require_some(found: Spectra) -> None:
    if not found:
        first = found.rejects[0]
        raise WorkFailed(
            f"none of {count(len(found.rejects), 'input')} was usable. The first, {first.path}: "
            f"{first.reason}.",
            _sentence(first.remedy),
        )


def _read_one(item: Any, how: _How) -> Spectra:
    """One input that is no list; it may hold several spectra."""
    if is_path(item):
        return _read_paths([item], how)
    if isinstance(item, RawSpectrum):
        return Spectra([item])
    if is_specutils(item):
        return _read_specutils(item, how)
    if isinstance(item, tuple | list) and len(item) in (2, 3) and _is_numeric(item[0]):
        return _read_arrays(item, how)
    if isinstance(item, np.ndarray) and item.ndim == 2 and len(item) == 3:
        return _read_arrays(tuple(item), how)
    raise UsageError(f"{_describe(item)} is no spectrum.", _WAYS)


def _read_paths(paths: Sequence[str | os.PathLike[str]], how: _How) -> Spectra:
    inputs = expand_inputs(paths)
    spectra: list[RawSpectrum] = []
    rejects = list(inputs.rejects)
    for result in stream_spectra(inputs.paths, processes=how.processes, requirements=_ANY_SPECTRUM):
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            spectra.append(result)
    return Spectra(spectra, rejects)


def _read_specutils(item: Any, how: _How) -> Spectra:
    if item.flux.ndim == 1:
        return Spectra([RawSpectrum.from_arrays(item, medium=how.medium)])
    if item.flux.ndim == 2:

        def build(row: int) -> RawSpectrum:
            return RawSpectrum.from_arrays(item[row], medium=how.medium)

        return _read_rows(item.flux.shape[0], build)
    raise UsageError(
        f"the specutils object holds spectra of shape {item.flux.shape}.",
        "give one or two dimensions, the last of which is wavelength.",
    )


def _read_arrays(item: Sequence[Any], how: _How) -> Spectra:
    """``(wave, flux, ivar)``; rows of two-dimensional flux are spectra."""
    wave, flux = item[0], item[1]
    ivar = item[2] if len(item) == 3 else None
    about = {"wave_unit": how.wave_unit, "medium": how.medium}
    if ivar is None:
        raise UsageError(
            "the spectrum has no uncertainty.",
            "give (wave, flux, ivar), or jm.Spectrum.from_arrays(wave, flux, sigma=...).",
        )
    flux_shape = _shape(flux)
    if len(flux_shape) < 2:
        return Spectra([RawSpectrum.from_arrays(wave, flux, ivar, **about)])
    if len(flux_shape) > 2:
        raise UsageError(
            f"flux has shape {flux_shape}.", "give (n_pix,) or (n_spectra, n_pix) values."
        )
    n_row, n_pix = flux_shape
    for name, values in (("wave", wave), ("ivar", ivar)):
        shape = _shape(getattr(values, "array", values))
        if shape not in ((), (n_pix,), flux_shape) or (name == "wave" and shape == ()):
            raise UsageError(
                f"{name} has shape {shape}, flux {flux_shape}.",
                f"give {name} of shape {(n_pix,)} or {flux_shape}"
                + (": transpose flux?" if shape == (n_row,) else "."),
            )

    def build(row: int) -> RawSpectrum:
        return RawSpectrum.from_arrays(*(_row_of(one, row) for one in (wave, flux, ivar)), **about)

    return _read_rows(n_row, build)


def _read_rows(n_row: int, build: Callable[[int], RawSpectrum]) -> Spectra:
    spectra, rejects = [], []
    for row in range(n_row):
        try:
            spectra.append(build(row))
        except RejectedInput as error:
            rejects.append(Reject.from_error(f"spectrum {row}", error))
    if not spectra and not rejects:
        raise UsageError("there is no spectrum: flux has no row.", _WAYS)
    found = Spectra(spectra, rejects)
    _require_some(found)
    return found


def _row_of(values: Any, row: int) -> Any:
    """A row of what has one value for each spectrum and pixel; all of what is shared."""
    return values[row] if len(_shape(getattr(values, "array", values))) == 2 else values


def _shape(values: Any) -> tuple[int, ...]:
    shape = getattr(values, "shape", None)
    if shape is not None:
        return tuple(int(size) for size in shape)
    try:
        return np.shape(values)
    except ValueError:
        raise UsageError(
            "the rows of a list have different lengths.",
            "give spectra on different pixels as a list of (wave, flux, ivar).",
        ) from None


def is_path(item: Any) -> bool:
    """Whether `item` names files."""
    return isinstance(item, str | os.PathLike)


def _is_numeric(item: Any) -> bool:
    """Whether `item` is numbers in a row, as arrays, quantities and lists are."""
    if isinstance(item, list | tuple):
        return len(item) > 0 and isinstance(item[0], int | float | np.number)
    kind = getattr(getattr(item, "dtype", None), "kind", "")
    return kind in "biuf" and kind != "" and len(getattr(item, "shape", ())) in (1, 2)


def _is_list(x: Any) -> bool:
    """Whether `x` is several inputs, and not the arrays of one."""
    if is_path(x) or isinstance(x, RawSpectrum | np.ndarray | dict) or is_specutils(x):
        return False
    if isinstance(x, list | tuple):
        arrays = len(x) in (2, 3) and _is_numeric(x[0])
        return not (arrays or (x and isinstance(x[0], int | float | np.number)))
    return isinstance(x, Iterable) and not hasattr(x, "dtype") and not hasattr(x, "columns")


def _describe(item: Any) -> str:
    shape = getattr(item, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}"
    if isinstance(item, list | tuple):
        return f"a {type(item).__name__} of {len(item)} values"
    return f"{item!r:.60}" if isinstance(item, int | float | type(None)) else type(item).__name__


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."
