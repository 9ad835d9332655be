"""Files and folders take their places complete, and what a killed writer left can be removed."""

import os

import pytest

from jaxmdwarf.io.atomic import (
    is_unfinished,
    move_files,
    move_folder,
    remove_remains,
    set_aside,
    write_atomically,
    write_folder_atomically,
)


@pytest.mark.parametrize("name", ["T.fits", "T.fits.gz", "T.csv-metadata.json", "list", "v1.2.txt"])
def test_what_a_killed_writer_left_is_found_by_the_name_of_its_target(tmp_path, name):
    with write_atomically(tmp_path / name) as temporary:
        left = temporary.name
        assert is_unfinished(left)
    with write_folder_atomically(tmp_path / "model") as folder:
        left_folder = folder.name
    (tmp_path / left).write_text("half")
    (tmp_path / left_folder).mkdir()
    (tmp_path / left_folder / "model.json").write_text("half")
    others = [".T.mine.fits", ".other.tmp-12345678.fits", "T.tmp-12345678.fits", ".list"]
    for other in others:
        (tmp_path / other).write_text("not ours")
    remove_remains(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, name, "model", left_folder])
    remove_remains(tmp_path / "model", tmp_path / "not there" / "T.fits")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, name, "model"])


def test_a_folder_that_stepped_aside_goes_when_the_new_one_is_there(tmp_path):
    for _ in range(2):  # killed twice, as the same process of a container
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "model.json").write_text("old")
        assert (set_aside(tmp_path / "model") / "model" / "model.json").is_file()
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "new").mkdir()
    move_folder(tmp_path / "new", tmp_path / "model")
    remove_remains(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("there", [None, (), ("notes.txt", "a.csv")])
def test_a_finished_folder_is_moved_at_once_or_between_files_that_stay(tmp_path, there):
    new, target = tmp_path / "new", tmp_path / "target"
    new.mkdir()
    (new / "a.csv").write_text("new")
    if there is not None:
        target.mkdir()
        for name in there:
            (target / name).write_text("old")
    move_files(new, target)
    assert not new.exists()
    assert (target / "a.csv").read_text() == "new"
    assert sorted(os.listdir(target)) == sorted({"a.csv", *(there or ())})
    if there:
        assert (target / "notes.txt").read_text() == "old"
