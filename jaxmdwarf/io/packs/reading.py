"""Spectra of packs as readers of files give them: the same pixels, types and headers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.errors import JaxmdwarfError, RejectedInput
from jaxmdwarf.io.packs.layout import COLUMN_ROWS, HEADER_COLUMNS, GroupEntry
from jaxmdwarf.io.packs.store import open_root, read_index
from jaxmdwarf.io.parts import PART_ROWS, PackPart
from jaxmdwarf.io.spectra.records import LogGrid, Placed, SpectrumRecord

_RESTORE = "restore the pack from a copy, or pack the files again"
_TRUTHS = tuple(name for name, kind in HEADER_COLUMNS.items() if kind.dtype == "int8")


def read_part(part: PackPart) -> list[Placed]:
    """The spectra of a part, each with the file that it came from.

    Parameters
    ----------
    part : PackPart

    Returns
    -------
    list of Placed
        In the order of the pack. Spectra of a chunk that is damaged or lost are `RejectedInput`;
        where what named them is lost, too, they are known by the pack and their number in it.

    Raises
    ------
    RejectedInput
        If the pack is not what it was when the part was made, or its order is lost.
    """
    pack = _open_pack(part.pack, part.content)
    placed: dict[int, Placed] = {}
    for name, entry in pack.index.groups.items():
        rows, positions = pack.find_rows(name, part.first, part.last)
        for some in _split_rows(rows):
            own = positions[some.start - rows.start : some.stop - rows.start]
            placed.update(zip(own, _read_rows(pack, name, entry, some, own), strict=True))
    wanted = sorted(placed) if part.rows is None else part.rows
    return [placed[position] for position in wanted]


def read_places(part: PackPart) -> list[tuple[str, int]]:
    """File and number in it of each spectrum of a part.

    Raises
    ------
    RejectedInput
        As `read_part`.
    """
    pack = _open_pack(part.pack, part.content)
    places: dict[int, tuple[str, int]] = {}
    for name in pack.index.groups:
        rows, positions = pack.find_rows(name, part.first, part.last)
        for some in _split_rows(rows):
            own = positions[some.start - rows.start : some.stop - rows.start]
            block = pack.read_columns(name, some)
            places.update(zip(own, block.name_places(part.pack, own), strict=True))
    wanted = sorted(places) if part.rows is None else part.rows
    return [places[position] for position in wanted]


def read_hashes(pack: str) -> np.ndarray:
    """Content hashes of all spectra of a pack, (n,), int64, sorted.

    Raises
    ------
    RejectedInput
        If a chunk of them is damaged.
    """
    opened = _open_pack(pack, read_index(pack).content)
    hashes = [
        opened.read_array(name, "content_hash", slice(0, entry.n_spectrum))
        for name, entry in opened.index.groups.items()
    ]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *hashes]))


class _Columns(NamedTuple):
    """Values of some rows by column, and what is wrong with columns that could not be read."""

    values: dict[str, list[Any]]
    damage: dict[str, str]

    def name_places(self, pack: str, positions: list[int]) -> list[tuple[str, int]]:
        if {"path", "index"} & self.damage.keys():
            return [(pack, position) for position in positions]
        return list(zip(self.values["path"], self.values["index"], strict=True))


class _OpenPack:
    """A pack that is read from: its arrays, its order and the columns that were read last."""

    def __init__(self, pack: str, content: str) -> None:
        self.name, self.root = pack, open_root(pack)
        self.index = read_index(pack, self.root)
        if not self.index.begins_with(content):
            raise RejectedInput(f"{pack} has changed since the run began.", "start the run again.")
        self._positions: dict[str, np.ndarray] = {}
        self._block: dict[str, tuple[int, _Columns]] = {}
        self._arrays: dict[str, Any] = {}

    def read_array(self, group: str, name: str, rows: slice, width: int | None = None) -> Any:
        """Rows of an array, as many pixels as are wanted; raises where a chunk is damaged or lost.

        Raises
        ------
        RejectedInput
            With the name of the array.
        """
        place = f"{group}/{name}"
        try:
            if place not in self._arrays:
                self._arrays[place] = self.root[place]
            array = self._arrays[place]
            values = array[rows] if width is None else array[rows, :width]
            n_wanted, fill, chunk = rows.stop - rows.start, array.fill_value, array.chunks[-1]
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RejectedInput(f"chunk of {place} is damaged: {line}.", f"{_RESTORE}.") from None
        # A lost chunk reads as fill values, which no spectrum has.
        first = values if values.ndim == 1 else values[:, :: min(chunk, max(width or 1, 1))]
        if len(values) < n_wanted or (first == fill).any():
            raise RejectedInput(f"a chunk of {place} is missing.", f"{_RESTORE}.")
        return values

    def find_rows(self, name: str, first: int, last: int) -> tuple[slice, list[int]]:
        """Rows of a group that have places from `first` to `last`, and those places."""
        n_spectrum = self.index.groups[name].n_spectrum
        if len(self.index.groups) == 1:
            rows = slice(min(first, n_spectrum), min(last, n_spectrum))
            return rows, list(range(rows.start, rows.stop))
        if name not in self._positions:
            self._positions[name] = self.read_array(name, "position", slice(0, n_spectrum))
        positions = self._positions[name]
        begin, end = np.searchsorted(positions, (first, last)).tolist()
        return slice(begin, end), positions[begin:end].tolist()

    def read_columns(self, name: str, rows: slice) -> _Columns:
        """What is known of rows that lie in one chunk of pixels, besides these.

        Columns have larger chunks, which are kept for the rows that come next.
        """
        block = rows.start // COLUMN_ROWS
        kept = self._block.get(name)
        if kept is None or kept[0] != block:
            kept = self._block[name] = block, self._read_block(name, block)
        first = block * COLUMN_ROWS
        own = slice(rows.start - first, rows.stop - first)
        values = {column: some[own] for column, some in kept[1].values.items()}
        return _Columns(values, kept[1].damage)

    def _read_block(self, name: str, block: int) -> _Columns:
        entry = self.index.groups[name]
        rows = slice(block * COLUMN_ROWS, min((block + 1) * COLUMN_ROWS, entry.n_spectrum))
        values: dict[str, list[Any]] = {}
        damage: dict[str, str] = {}
        for column, kind in entry.key.columns.items():
            try:
                found = self.read_array(name, column, rows).tolist()
            except RejectedInput as error:
                damage[column] = error.message
            else:
                values[column] = list(map(restore_path, found)) if kind.dtype == "string" else found
        for column in _TRUTHS:
            values[column] = list(map(bool, values.get(column, ())))
        return _Columns(values, damage)


@lru_cache(maxsize=8)
def _open_pack(pack: str, content: str) -> _OpenPack:
    try:
        return _OpenPack(pack, content)
    except RejectedInput:
        raise
    except JaxmdwarfError as error:
        # It was there when the run began.
        raise RejectedInput(error.message, error.remedy) from None


def _split_rows(rows: slice) -> Iterator[slice]:
    """Rows by the chunks of pixels that they lie in: a damaged one costs no others."""
    first = rows.start
    while first < rows.stop:
        last = min((first // PART_ROWS + 1) * PART_ROWS, rows.stop)
        yield slice(first, last)
        first = last


def _read_rows(
    pack: _OpenPack, name: str, entry: GroupEntry, rows: slice, positions: list[int]
) -> list[Placed]:
    """Spectra of rows that lie in one chunk of pixels."""
    columns = pack.read_columns(name, rows)
    places = columns.name_places(pack.name, positions)
    try:
        if columns.damage:
            raise RejectedInput(next(iter(columns.damage.values())), f"{_RESTORE}.")
        records = _build_records(pack, name, entry, rows, columns.values)
    except RejectedInput as error:
        return [Placed(path, index, error) for path, index in places]
    return [Placed(*place, record) for place, record in zip(places, records, strict=True)]


def _build_records(
    pack: _OpenPack, name: str, entry: GroupEntry, rows: slice, values: dict[str, list[Any]]
) -> list[SpectrumRecord]:
    widths = values["n_pix"]
    flux = pack.read_array(name, "flux", rows, max(widths))
    ivar = pack.read_array(name, "ivar", rows, max(widths))
    grids: list[Any]
    if entry.key.is_log:
        grids = list(map(LogGrid, values["coeff0"], values["coeff1"], widths))
    else:
        grids = _read_wavelengths(pack, name, values["solution"], widths)
    headers = zip(*(values[field] for field in HEADER_COLUMNS), strict=True)
    return [
        SpectrumRecord(
            grid,
            flux[row, :width],
            ivar[row, :width],
            dict(zip(HEADER_COLUMNS, header, strict=True)),
            what=what,
            known_hash=content_hash,
        )
        for row, (grid, width, header, what, content_hash) in enumerate(
            zip(grids, widths, headers, values["what"], values["content_hash"], strict=True)
        )
    ]


def _read_wavelengths(
    pack: _OpenPack, name: str, solutions: list[int], widths: list[int]
) -> list[np.ndarray]:
    """Wavelengths of spectra; those on the same pixels share one array."""
    # Solutions are numbered as they come, so that those of neighbours are neighbours.
    shared: dict[int, np.ndarray] = {}
    for first, last in _find_runs(sorted(set(solutions))):
        block = pack.read_array(name, "wavelength", slice(first, last), max(widths))
        shared.update(zip(range(first, last), block, strict=True))
    by_width: dict[tuple[int, int], np.ndarray] = {}
    return [
        by_width.setdefault((solution, width), shared[solution][:width])
        for solution, width in zip(solutions, widths, strict=True)
    ]


def _find_runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers as (first, last + 1)."""
    first = previous = numbers[0]
    for number in numbers[1:]:
        if number != previous + 1:
            yield first, previous + 1
            first = number
        previous = number
    yield first, previous + 1
