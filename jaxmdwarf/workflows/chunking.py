"""Chunks of a run: how large they are, what their readers brought, when to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import DuplicateFinder, name_place

CHUNK_BYTES = 512 * 1024**2
"""Size of the files of a chunk: a thousand single spectra, or a few files of many."""

MOST_UNEXPECTED, LEAST_UNEXPECTED = 0.01, 3
"""Share of inputs that may end in errors nobody thought of, and the fewest that stop a run."""


class Gathered(NamedTuple):
    """What the files of a chunk hold.

    Parameters
    ----------
    items : list of (str, payload)
        What readers brought, by path.
    rejects : list of Reject
    hashes : list of (str, int)
        Places and contents, to know copies by.
    n_in : int
        How many spectra there were in all; a file that cannot be read counts as one.
    order : dict of str to int
        Files by where they stand among the others.
    """

    items: list[tuple[str, Any]]
    rejects: list[Reject]
    hashes: list[tuple[str, int]]
    n_in: int
    order: dict[str, int]


def gather_results(
    results: Iterator[tuple[str, Any]], n_path: int, duplicates: DuplicateFinder
) -> Gathered:
    """What the next `n_path` files, or parts of packs, hold."""
    items: list[tuple[str, Any]] = []
    rejects: list[Reject] = []
    hashes: list[tuple[str, int]] = []
    order: dict[str, int] = {}
    n_in = 0
    for _ in range(n_path):
        path, result = next(results)
        for index, one in enumerate(result if isinstance(result, list) else [result]):
            n_in += 1
            if isinstance(one, Reject):
                order.setdefault(one.path, len(order))
                rejects.append(one)
                continue
            payload, content_hash = one[:2]
            # What comes from a pack is known by the file that it was in.
            place = one.place if isinstance(path, PackPart) else (path, index)
            order.setdefault(place[0], len(order))
            if content_hash is not None:
                repeated = duplicates.find(content_hash, *place)
                if repeated is not None:
                    rejects.append(repeated)
                    continue
                hashes.append((name_place(*place), content_hash))
            items.append((place[0], payload))
    return Gathered(items, rejects, hashes, n_in, order)


def require_expected(strange: Sequence[Reject], n_unexpected: int, n_read: int) -> None:
    """Stop where errors that no reader should raise are too many to be the fault of files.

    Parameters
    ----------
    strange : sequence of Reject
        Those of the last chunk.
    n_unexpected, n_read : int
        Those of all chunks so far, and all inputs.

    Raises
    ------
    WorkFailed
        If they are more than `MOST_UNEXPECTED` of all, and at least `LEAST_UNEXPECTED`.
    """
    if strange and n_unexpected >= LEAST_UNEXPECTED and n_unexpected > MOST_UNEXPECTED * n_read:
        raise WorkFailed(
            f"{n_unexpected} of {n_read} inputs ended in errors that their reader does not expect, "
            f"more than {100 * MOST_UNEXPECTED:g} %. The last: {strange[-1].path}: "
            f"{strange[-1].reason}.",
            "this is a defect of jaxmdwarf, or of the reader that you registered: report it with "
            "one of the files, or leave these files out.",
        )
