"""Writing packs: rows first, the index last, so that what is there before stays readable."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.atomic import told_if_full
from jaxmdwarf.io.packs.layout import (
    COLUMN_ROWS,
    HEADER_COLUMNS,
    NEVER_WRITTEN,
    ColumnKind,
    GroupEntry,
    GroupKey,
    PackIndex,
    digest_record,
    extend_content,
    write_text,
)
from jaxmdwarf.io.packs.store import is_url, open_root
from jaxmdwarf.io.parts import PART_ROWS
from jaxmdwarf.io.spectra.records import NO_HEADER, LogGrid, SpectrumRecord

_SOLUTION_ROWS = 32
"""Wavelength vectors of a chunk."""

_UNFINISHED = ".partial"
"""End of the names that zarr gives to what it is writing."""


class WrittenRow(NamedTuple):
    """Where a spectrum went, and what it adds to the content of the pack.

    Parameters
    ----------
    group : str
    solution : int
        Its wavelengths among those of the group; -1 where coefficients hold them.
    digest : str
        See `jaxmdwarf.io.packs.layout.digest_record`.
    """

    group: str
    solution: int
    digest: str


class PackWriter:
    """Adds spectra to a pack, which has them once `commit` has written its index.

    Rows that were written before by a process that was stopped are written again in the same
    places: only those that `resume` is told of count.

    Parameters
    ----------
    pack : str
        A path or URL.
    base : PackIndex
        What stays in it, an empty one in a new pack. Where it leaves groups out that are there,
        they go when the new index is written.

    Attributes
    ----------
    pack, base
        As given.
    before : PackIndex
        The index that is there.
    """

    def __init__(self, pack: str, base: PackIndex) -> None:
        self.pack, self.base = pack, base
        with told_if_full(Path(pack)):
            self._root = open_root(pack, "a")
            if not dict(self._root.attrs):
                self._root.update_attributes(PackIndex().as_attributes())
        self.before = PackIndex.from_attributes(dict(self._root.attrs), pack)
        self._groups = dict(base.groups)
        self._names = {entry.key: name for name, entry in base.groups.items()}
        self._content, self._n_spectrum = base.content, base.n_spectrum
        self._solutions: dict[str, dict[bytes, int]] = {}
        self._arrays: dict[str, Any] = {}

    def resume(self, rows: Sequence[WrittenRow]) -> None:
        """Count rows that a process before this one has written, and remove what it left besides.

        Raises
        ------
        UsageError
            If they are not there any more.
        """
        for one in rows:
            if one.group not in self._groups:
                if one.group not in self._root:
                    raise UsageError(
                        f"what was packed into {self.pack} is not there any more.",
                        "remove its .partial folder to begin anew.",
                    )
                key = GroupKey(**self._root[one.group].attrs["key"])
                self._groups[one.group], self._names[key] = GroupEntry(key), one.group
            self._count(one)
        self._sweep({**self.before.groups, **self._groups})
        if not is_url(self.pack):
            for path in Path(self.pack).rglob(f"*{_UNFINISHED}"):
                path.unlink(missing_ok=True)

    def add(self, records: Sequence[tuple[SpectrumRecord, int]]) -> list[WrittenRow]:
        """Write spectra, each with its content hash, behind those that are there.

        Raises
        ------
        WorkFailed
            If the disk is full.
        """
        by_key: dict[GroupKey, list[int]] = {}
        for row, (record, _) in enumerate(records):
            by_key.setdefault(GroupKey.of(record), []).append(row)
        written: list[WrittenRow | None] = [None] * len(records)
        with told_if_full(Path(self.pack)):
            for key, rows in by_key.items():
                name = self._find_group(key)
                own = [records[row] for row in rows]
                positions = [self._n_spectrum + row for row in rows]
                solutions = self._write_solutions(name, own)
                self._write_rows(name, own, positions, solutions)
                for row, solution in zip(rows, solutions, strict=True):
                    written[row] = WrittenRow(name, solution, digest_record(*records[row]))
        done = [one for one in written if one is not None]
        for one in done:
            self._count(one)
        return done

    def commit(self, provenance: Mapping[str, str]) -> PackIndex:
        """Write the index, from which moment the pack has all that was added, and tidy up.

        Parameters
        ----------
        provenance : mapping
            Of the command, kept beside those of commands before.
        """
        written = (*self.base.written, {**provenance, "content": self._content})
        index = PackIndex(self._content, dict(self._groups), written)
        with told_if_full(Path(self.pack)):
            for name, entry in self._groups.items():
                self._trim(name, entry)
            self._root.update_attributes(index.as_attributes())
            self._sweep(self._groups)
        return index

    def withdraw(self) -> None:
        """Remove what was begun; a pack that was there before stays."""
        self._sweep(self.before.groups)
        if not self.before.n_spectrum and not is_url(self.pack):
            shutil.rmtree(self.pack)

    @property
    def content(self) -> str:
        """What the pack will hold, see `PackIndex`."""
        return self._content

    def _count(self, row: WrittenRow) -> None:
        entry = self._groups[row.group]
        self._groups[row.group] = replace(
            entry,
            n_spectrum=entry.n_spectrum + 1,
            n_solution=max(entry.n_solution, row.solution + 1),
        )
        self._n_spectrum += 1
        self._content = extend_content(self._content, [row.digest])

    def _sweep(self, keep: Iterable[str]) -> None:
        """Remove groups that no index names: of killed processes, or of what was replaced."""
        for name in set(self._root.group_keys()) - set(keep):
            del self._root[name]

    def _find_group(self, key: GroupKey) -> str:
        if key not in self._names:
            taken = {*self._groups, *self.before.groups}
            name = key.choose_name(taken)
            self._make_group(name, key)
            self._groups[name], self._names[key] = GroupEntry(key), name
        return self._names[key]

    def _make_group(self, name: str, key: GroupKey) -> None:
        group = self._root.create_group(
            name, overwrite=True, attributes={"key": key._asdict(), "wavelength_medium": "vacuum"}
        )
        for array, dtype, about in (
            ("flux", key.flux_dtype, "flux per Angstrom in the unit of the survey"),
            ("ivar", key.ivar_dtype, "inverse variance of flux; 0 marks a bad pixel"),
        ):
            chunks = (PART_ROWS, key.width)
            self._make_array(group, array, ColumnKind(dtype, NEVER_WRITTEN["f"]), chunks, about)
        if not key.is_log:
            kind = ColumnKind("float64", NEVER_WRITTEN["f"])
            chunks = (_SOLUTION_ROWS, key.width)
            self._make_array(group, "wavelength", kind, chunks, "Angstrom, vacuum")
        for column, kind in key.columns.items():
            self._make_array(group, column, kind, (COLUMN_ROWS,))

    def _make_array(
        self, group: Any, name: str, kind: ColumnKind, chunks: tuple[int, ...], about: str = ""
    ) -> None:
        from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

        first = "solution" if name == "wavelength" else "spectrum"
        self._arrays[f"{group.basename}/{name}"] = group.create_array(
            name,
            shape=(0, *chunks[1:]),
            chunks=chunks,
            dtype=kind.dtype,
            fill_value=kind.fill,
            compressors=[
                # Of what was tried on noisy pixels the fastest to write and read, and small.
                BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")
                if len(chunks) > 1
                else ZstdCodec(level=1),
                Crc32cCodec(),
            ],
            dimension_names=[first, "pixel"][: len(chunks)],
            attributes={"description": about} if about else None,
        )

    def _write_solutions(
        self, name: str, records: Sequence[tuple[SpectrumRecord, int]]
    ) -> list[int]:
        """Numbers of the wavelength vectors of spectra, of which new ones are written."""
        entry = self._groups[name]
        if entry.key.is_log:
            return [-1] * len(records)
        known = self._solutions.get(name)
        if known is None:
            known = self._solutions[name] = self._read_solutions(name, entry)
        n_before = len(known)
        fresh: list[np.ndarray] = []
        numbers: list[int] = []
        for record, _ in records:
            wave = np.ascontiguousarray(record.pixels, dtype=np.float64)
            number = known.setdefault(wave.tobytes(), len(known))
            if number == n_before + len(fresh):
                fresh.append(wave)
            numbers.append(number)
        if fresh:
            self._put(name, "wavelength", n_before, _pad(fresh, entry.key.width, "float64"))
        return numbers

    def _read_solutions(self, name: str, entry: GroupEntry) -> dict[bytes, int]:
        if not entry.n_solution:
            return {}
        waves = self._root[f"{name}/wavelength"][: entry.n_solution]
        # Padding is 0, which no wavelength is.
        return {wave[wave > 0].tobytes(): number for number, wave in enumerate(waves)}

    def _write_rows(
        self,
        name: str,
        records: Sequence[tuple[SpectrumRecord, int]],
        positions: Sequence[int],
        solutions: Sequence[int],
    ) -> None:
        entry = self._groups[name]
        first, key = entry.n_spectrum, entry.key
        flux = _pad([record.flux for record, _ in records], key.width, key.flux_dtype)
        self._put(name, "flux", first, flux)
        ivar = _pad([record.ivar for record, _ in records], key.width, key.ivar_dtype)
        self._put(name, "ivar", first, ivar)
        headers = [{**NO_HEADER, **record.meta} for record, _ in records]
        columns: dict[str, Sequence[Any]] = {
            **{field: [header[field] for header in headers] for field in HEADER_COLUMNS},
            "n_pix": [record.flux.size for record, _ in records],
            "position": positions,
            "content_hash": [content_hash for _, content_hash in records],
            "what": [record.what for record, _ in records],
            "solution": solutions,
        }
        if key.is_log:
            grids = [record.pixels for record, _ in records if isinstance(record.pixels, LogGrid)]
            columns["coeff0"] = [grid.coeff0 for grid in grids]
            columns["coeff1"] = [grid.coeff1 for grid in grids]
        for column, kind in key.columns.items():
            self._put(name, column, first, _as_column(columns[column], kind))

    def _put(self, group: str, name: str, first: int, values: np.ndarray) -> None:
        place = f"{group}/{name}"
        if place not in self._arrays:
            self._arrays[place] = self._root[place]
        array = self._arrays[place]
        last = first + len(values)
        if array.shape[0] < last:
            array.resize((last, *array.shape[1:]))
        array[first:last] = values

    def _trim(self, name: str, entry: GroupEntry) -> None:
        """Cut off rows of a process that went further than this one."""
        for column, array in self._root[name].arrays():
            n_row = entry.n_solution if column == "wavelength" else entry.n_spectrum
            if array.shape[0] > n_row:
                array.resize((n_row, *array.shape[1:]))


def measure_disk(pack: str) -> int:
    """Bytes of a pack on a disk; 0 for one behind a URL."""
    total = 0
    for folder, _, names in os.walk(pack if not is_url(pack) else os.devnull):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _pad(vectors: Sequence[np.ndarray], width: int, dtype: str) -> np.ndarray:
    padded = np.zeros((len(vectors), width), dtype)
    for row, vector in enumerate(vectors):
        padded[row, : vector.size] = vector
    return padded


def _as_column(values: Sequence[Any], kind: ColumnKind) -> np.ndarray:
    if kind.dtype == "string":
        return np.array(list(map(write_text, values)), dtype=np.dtypes.StringDType())
    return np.array(values, dtype=kind.dtype)
