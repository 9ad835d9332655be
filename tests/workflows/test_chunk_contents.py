"""What the files of a chunk hold, when a run stops, and what spectra and rows come of it."""

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput, UsageError, WorkFailed
from jaxmdwarf.io.inputs import Inputs
from jaxmdwarf.io.parts import PackPart
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra.readers import DuplicateFinder
from jaxmdwarf.io.spectra.records import SpectrumRecord
from jaxmdwarf.workflows.chunking import gather_chunks, require_expected
from jaxmdwarf.workflows.reading import build_spectra, count_rows, split_rows
from jaxmdwarf.workflows.sharding import Shard, count_shares


class OfPack(tuple):
    """What a reader brings of a pack: the payload, its hash, and the place that it was at."""

    place = ("old.fits", 7)


def test_spectra_copies_and_rejects_of_files_are_counted_once():
    results = [
        ("a.fits", [("a0", 11), ("a1", 12), Reject("a.fits", "is dark", "wait", 2)]),
        ("b.fits", ("b0", 12)),
        ("c.fits", Reject("c.fits", "is broken", "mend it")),
        (PackPart("s.zarr", "5f", 0, 1), [OfPack(("p0", 13))]),
        ("d.fits", ("d0", None)),
        ("e.fits", ("e0", 99)),
    ]
    stream = iter(results)
    paths = [path for path, _ in results[:5]]
    found = next(gather_chunks(stream, [paths], DuplicateFinder()))
    assert found.paths == paths
    assert found.items == [("a.fits", "a0"), ("a.fits", "a1"), ("old.fits", "p0"), ("d.fits", "d0")]
    assert [one.path for one in found.rejects] == ["a.fits", "b.fits", "c.fits"]
    assert "a.fits[1]" in found.rejects[1].reason
    assert found.hashes == [("a.fits", 11), ("a.fits[1]", 12), ("old.fits[7]", 13)]
    assert found.n_in == 7
    assert found.order == {"a.fits": 0, "b.fits": 1, "c.fits": 2, "old.fits": 3, "d.fits": 4}
    assert next(stream)[0] == "e.fits"


@pytest.mark.parametrize(
    ("n_unexpected", "n_read", "stops"),
    [(3, 299, True), (3, 300, False), (2, 2, False), (4, 300, True), (4, 400, False), (3, 3, True)],
)
def test_a_run_stops_at_one_per_cent_of_what_nobody_thought_of_and_three(
    n_unexpected, n_read, stops
):
    strange = [Reject("x.fits", "KeyError: a", "look"), Reject("y.fits", "KeyError: b", "look")]
    require_expected([], n_unexpected, n_read)
    if not stops:
        return require_expected(strange, n_unexpected, n_read)
    with pytest.raises(WorkFailed, match=rf"{n_unexpected} of {n_read} .* more than 1 %.*y.fits"):
        require_expected(strange, n_unexpected, n_read)


def test_records_become_spectra_or_rejects_with_their_number():
    def record(number, level):
        wave = np.linspace(6000, 7000, 20)
        return SpectrumRecord.from_arrays("f", wave, np.full(20, level), 4.0, index=number)

    def require(raw):
        if raw.flux[0] < 0:
            raise RejectedInput("is below zero.", "wait.")

    items = [("a", record(0, 1.0)), ("a", record(1, -1.0)), ("b", record(2, 3.0))]
    raws, rejects = build_spectra(items, require)
    assert [raw.flux[0] for raw in raws] == [1.0, 3.0]
    assert rejects == [Reject("a", "is below zero", "wait", 1)]


def test_rows_of_a_call_are_no_more_than_spectra_need(tmp_path):
    small = [str(tmp_path / f"{number}.fits") for number in range(40)]
    for path in small:
        (tmp_path / path).write_bytes(b"x" * 1000)
    assert count_rows(small, 1024) == 64
    assert count_rows(small[:32], 1024) == 32
    assert count_rows(small[:33], 1024) == 64
    assert count_rows(small, 24) == 24
    assert count_rows([], 1024) == 32
    large = tmp_path / "coadd.fits"
    large.write_bytes(b"x" * (400_000 * 70))
    assert count_rows([str(large)], 1024) == 96
    # Beyond the first chunk no file is looked at, and parts of packs say what they hold.
    assert count_rows([*small[:2], str(large)], 2) == 2
    part = PackPart("s.zarr", "5f", 0, 100, 10**9)
    assert count_rows([part], 1024) == 128
    assert [list(one) for one in split_rows(list("abcdefg"), 3)] == [
        list("abc"), list("def"), list("g"),
    ]  # fmt: skip


def test_parts_of_a_run_are_neighbours_and_even():
    for text in ("1/1", "64/64", " 3/64 "):
        assert str(Shard.parse(text)) == text.strip()
    for text in ("0/3", "4/3", "1/0", "a/b", "1-3", "-1/3", "1/3/5"):
        with pytest.raises(UsageError, match="no part"):
            Shard.parse(text)
    names = tuple(f"{number:02d}" for number in range(23))
    reject = Reject("gone", "no such file", "check")
    inputs = Inputs(names, (reject,))
    for of in (1, 3, 5, 23, 40):
        parts = [Shard(number, of).take(inputs) for number in range(1, of + 1)]
        assert sum((part.paths for part in parts), ()) == names
        sizes = [len(part.paths) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert count_shares(inputs, of) == sizes
        assert [part.rejects for part in parts] == [(reject,), *[()] * (of - 1)]
    # Chunks are not divided, and parts of packs count as what they hold.
    in_fives = [Shard(number, 2).take(inputs, 5).paths for number in (1, 2)]
    assert [len(part) for part in in_fives] == [15, 8]
    pack = tuple(PackPart("s", "c", 100 * n, 100 * n + 100) for n in range(3))
    mixed = Inputs((*names, *pack), ())
    assert count_shares(mixed, 2) == [223, 100]
    assert Shard(2, 2).take(mixed).paths == pack[2:]
