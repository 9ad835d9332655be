"""Chunks of a run: how large they are, what their readers brought, when to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import DuplicateFinder, name_place

CHUNK_BYTES = 512 * 1024**2
"""Size of the files of a chunk: a thousand single spectra, or a few files of many."""

MOST_UNEXPECTED, LEAST_UNEXPECTED = 0.01, 3
"""Share of inputs that may end in errors nobody thought of, and the fewest that stop a run."""


def gather_results(
    results: Iterator[tuple[str, Any]], n_path: int, duplicates: DuplicateFinder
) -> tuple[list[tuple[str, Any]], list[Reject], list[tuple[str, int]], int]:
    """What the next `n_path` files hold.

    Returns
    -------
    items : list of (str, payload)
        What readers brought, by path.
    rejects : list of Reject
    hashes : list of (str, int)
        Places and contents, to know copies by.
    n_in : int
        How many spectra there were in all; a file that cannot be read counts as one.
    """
    items: list[tuple[str, Any]] = []
    rejects: list[Reject] = []
    hashes: list[tuple[str, int]] = []
    n_in = 0
    for _ in range(n_path):
        path, result = next(results)
        for index, one in enumerate(result if isinstance(result, list) else [result]):
            n_in += 1
            if isinstance(one, Reject):
                rejects.append(one)
                continue
            payload, content_hash = one
            if content_hash is not None:
                repeated = duplicates.find(content_hash, path, index)
                if repeated is not None:
                    rejects.append(repeated)
                    continue
                hashes.append((name_place(path, index), content_hash))
            items.append((path, payload))
    return items, rejects, hashes, n_in


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
