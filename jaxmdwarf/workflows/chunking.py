"""Chunks of a run: how large they are, what their readers brought, when to stop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from jaxmdwarf.errors import WorkFailed
from jaxmdwarf.inference.stages import Stages
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import Reject, UnexpectedReject
from jaxmdwarf.io.spectra.readers import DuplicateFinder, name_place

T = TypeVar("T")
Made = TypeVar("Made")

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
    paths : list of str
        The files, or parts of packs.
    n_unexpected : int
        Inputs on which readers failed as they should not.
    """

    items: list[tuple[str, Any]]
    rejects: list[Reject]
    hashes: list[tuple[str, int]]
    n_in: int
    order: dict[str, int]
    paths: list[str]
    n_unexpected: int

    def sort_rejects(self, more: Sequence[Reject]) -> list[Reject]:
        """Its rejects and those that were found later, in the order of the files."""
        return sorted(
            [*self.rejects, *more],
            key=lambda one: (self.order.get(one.path, len(self.order)), one.spectrum or 0),
        )


def gather_chunks(
    results: Iterator[tuple[str, Any]],
    chunks: Iterable[list[str]],
    duplicates: DuplicateFinder,
    n_read: int = 0,
    n_unexpected: int = 0,
    stages: Stages | None = None,
) -> Iterator[Gathered]:
    """What chunks of files hold, one after the other.

    Parameters
    ----------
    results : iterator of (path, result)
        Of all files, in their order.
    chunks : iterable of list of str
        The files.
    duplicates : DuplicateFinder
        That knows the spectra that were met before.
    n_read, n_unexpected : int
        Inputs before these, and those of them on which readers failed as they should not.
    stages : Stages, optional
        Is told how long readers are waited for.

    Raises
    ------
    WorkFailed
        See `require_expected`.
    """
    for paths in chunks:
        with (stages or Stages()).stage("waiting for readers"):
            found = _gather_results(results, paths, duplicates)
        strange = [one for one in found.rejects if isinstance(one, UnexpectedReject)]
        n_read, n_unexpected = n_read + found.n_in, n_unexpected + len(strange)
        require_expected(strange, n_unexpected, n_read)
        yield found


def _gather_results(
    results: Iterator[tuple[str, Any]], paths: list[str], duplicates: DuplicateFinder
) -> Gathered:
    items: list[tuple[str, Any]] = []
    rejects: list[Reject] = []
    hashes: list[tuple[str, int]] = []
    order: dict[str, int] = {}
    n_in = 0
    for _ in paths:
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
    n_unexpected = sum(isinstance(one, UnexpectedReject) for one in rejects)
    return Gathered(items, rejects, hashes, n_in, order, paths, n_unexpected)


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


class Done(NamedTuple):
    """What was made of a chunk, and the moments between which it was made, as a clock has them."""

    made: Any
    began: float
    ended: float


def work_beside(
    work: Callable[[T], Made], chunks: Iterable[T], n_beside: int
) -> Iterator[tuple[T, Done]]:
    """What `work` makes of chunks, in their order, while the next ones are taken.

    Parameters
    ----------
    work : callable
        Is called by threads.
    chunks : iterable
        Taken ahead of those that are worked on. Where it fails, what it gave before is finished
        first.
    n_beside : int
        Threads, whom `work` must bear at once. The first chunk is worked on alone: it compiles what
        the others call, and imports what two threads had better not import at once.

    Examples
    --------
    >>> [done.made for _, done in work_beside(abs, [-3, 2, -1], 2)]
    [3, 2, 1]
    """

    def timed(chunk: T) -> Done:
        began = time.perf_counter()
        made = work(chunk)
        return Done(made, began, time.perf_counter())

    pending: deque[tuple[T, Future[Done]]] = deque()
    pool = ThreadPoolExecutor(n_beside, thread_name_prefix="jaxmdwarf-chunk")
    allowed, failure, source = 0, None, iter(chunks)
    try:
        while True:
            try:
                chunk = next(source)
            except StopIteration:
                break
            except Exception as error:  # raised below, behind what is finished first
                failure = error
                break
            pending.append((chunk, pool.submit(timed, chunk)))
            if len(pending) > allowed:
                first, future = pending.popleft()
                yield first, future.result()
                allowed = n_beside
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
