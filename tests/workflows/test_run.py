"""Finished chunks survive a killed run, and only the run that they belong to finds them."""

import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.workflows.run import ChunkFolder, FinishedChunk

PATHS = tuple(f"{letter}.fits" for letter in "abcde")


def open_folder(folder, fingerprint="one"):
    return ChunkFolder(folder, PATHS, 2, fingerprint=fingerprint, holds="partial catalogue")


def make_chunk(number, arrays=None):
    rows = pd.DataFrame({"path": [PATHS[2 * number]], "RV": [10.5 * number]})
    return FinishedChunk(rows, [Reject("x", "is odd", "drop it")], [("a", 2**63 + number)], arrays)


def test_chunks_share_the_inputs_in_their_order(tmp_path):
    chunks = open_folder(tmp_path / "out")
    assert chunks.n_chunk == 3
    assert [tuple(chunks.paths_of(n)) for n in range(3)] == [PATHS[:2], PATHS[2:4], PATHS[4:]]


@pytest.mark.parametrize("arrays", [None, {}, {"flux": np.arange(6.0).reshape(1, 6)}])
def test_what_was_written_is_read_again(tmp_path, arrays):
    chunks = open_folder(tmp_path / "out")
    assert chunks.open() == 0
    written = make_chunk(1, arrays)
    chunks.write(1, written)
    found = open_folder(tmp_path / "out").read(1)
    pd.testing.assert_frame_equal(found.rows, written.rows)
    assert (found.rejects, found.hashes) == (written.rejects, written.hashes)
    if arrays is None:
        assert found.arrays is None
    else:
        assert found.arrays.keys() == arrays.keys()
        assert all((found.arrays[name] == arrays[name]).all() for name in arrays)


def test_a_run_goes_on_after_the_last_complete_chunk(tmp_path):
    chunks = open_folder(tmp_path / "out")
    chunks.open()
    for number in (0, 2):
        chunks.write(number, make_chunk(number))
    # Chunk 1 was cut off before its note.
    (tmp_path / "out" / "chunk-000001.parquet").write_bytes(b"PAR1")
    assert open_folder(tmp_path / "out").open() == 1


def test_chunks_of_another_run_are_removed_and_other_folders_left_alone(tmp_path):
    chunks = open_folder(tmp_path / "out")
    chunks.open()
    chunks.write(0, make_chunk(0))
    assert open_folder(tmp_path / "out", "two").open() == 0
    assert open_folder(tmp_path / "out", "one").open() == 0
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years")
    with pytest.raises(UsageError, match="holds no partial catalogue"):
        open_folder(thesis.parent).open()
    assert thesis.read_text() == "years"


def test_without_a_folder_nothing_is_kept():
    chunks = open_folder(None)
    assert chunks.open() == 0
    chunks.write(0, make_chunk(0))
    assert chunks.open() == 0
