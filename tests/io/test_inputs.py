"""Which files arguments stand for: folders, patterns, lists; a reason and a remedy for the rest."""

import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.io.inputs import expand_inputs


@pytest.fixture
def night(tmp_path, monkeypatch):
    for name in ("b/2.fits", "b/1.fits", "b/deep/3.fits", "b/.hidden", "a.fits", "c.fits"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path / "b")
    return tmp_path


def names_of(inputs, folder):
    return [os.path.relpath(path, folder) for path in inputs.paths]


def test_folders_patterns_and_lists_are_expanded_in_order(night):
    (night / "list.txt").write_text("# a comment\n\nc.fits\nnothing.fits\n")
    inputs = expand_inputs(["..//b", "../*.fits", f"@{night}/list.txt", "@none.txt"])
    expected = ["b/1.fits", "b/2.fits", "b/deep/3.fits", "a.fits", "c.fits"]
    assert names_of(inputs, night) == expected
    reasons = [(os.path.basename(r.path), r.reason.split(":")[0]) for r in inputs.rejects]
    assert [name for name, _ in reasons] == ["c.fits", "nothing.fits", "@none.txt"]
    assert reasons[0][1].startswith("the same file as")
    assert inputs.n_in == 8


def test_one_path_is_not_taken_for_its_letters(night):
    assert names_of(expand_inputs("../a.fits"), night) == ["a.fits"]
    assert names_of(expand_inputs(night / "b"), night) == ["b/1.fits", "b/2.fits", "b/deep/3.fits"]


@pytest.mark.parametrize(
    ("argument", "reason", "remedy"),
    [
        ("nothing.fits", "no such file", "check the path"),
        ("1.fits,2.fits", "no such file", "spaces, not commas"),
        ("*.dat", "matches no file", "check the pattern"),
        ("", "is no name", "give a path"),
        ("a\0b", "is no name", "give a path"),
        ("@none.txt", "cannot be read: No such file", "behind the @"),
        ("@empty.txt", "the list is empty", "one file name a line"),
        ("@utf16.txt", "no text in UTF-8", "UTF-8"),
        ("void", "directory without files", "leave it out"),
        ("link", "link to a folder", "name that folder"),
    ],
)
def test_what_names_nothing_is_a_reject_with_a_remedy(night, argument, reason, remedy):
    Path("empty.txt").write_text("# nothing\n\n")
    Path("utf16.txt").write_text("1.fits\n", encoding="utf-16")
    Path("void").mkdir()
    if argument == "link":
        Path("holder").mkdir()
        Path("holder/link").symlink_to("../deep")
        argument = "holder"
    inputs = expand_inputs([argument])
    assert inputs.paths == ()
    (reject,) = inputs.rejects
    assert reason in reject.reason
    assert remedy in reject.remedy
    assert "\n" not in reject.reason + reject.remedy


def test_what_is_no_path_is_an_error():
    with pytest.raises(UsageError, match="3 is no path"):
        expand_inputs([3])


def test_products_in_the_input_folder_are_no_inputs(night):
    inputs = expand_inputs([night], leave_out=[night / "c.fits"])
    assert "c.fits" not in names_of(inputs, night)
    assert len(inputs.paths) == 4


def test_links_to_one_file_are_one_input(night):
    (night / "d.fits").symlink_to(night / "a.fits")
    inputs = expand_inputs([night / "a.fits", night / "d.fits"])
    assert len(inputs.paths) == len(inputs.rejects) == 1


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lists_of_any_system_lose_no_entry(night, ending):
    Path("list.txt").write_bytes(b"\xef\xbb\xbf" + ending.join(["1.fits", "2.fits"]).encode())
    assert names_of(expand_inputs(["@list.txt"]), night / "b") == ["1.fits", "2.fits"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_that_are_not_utf8_are_found(night):
    name = b"\xe9toile\x0b.fits"
    Path(os.fsdecode(name)).write_text("x")
    Path("list.txt").write_bytes(name + b"\n1.fits\n")
    inputs = expand_inputs(["@list.txt"])
    assert [os.fsencode(path) for path in inputs.paths] == [name, b"1.fits"]
    assert name in [os.path.basename(os.fsencode(p)) for p in expand_inputs(".").paths]


@pytest.fixture
def deep_folder(monkeypatch):
    """A folder in a folder, oftener than functions may call each other, with a file at the bottom.

    Python's own removal of folders, by which pytest tidies up, is not up to it: it lies elsewhere
    and goes whatever becomes of the test.
    """
    top = tempfile.mkdtemp(prefix="jaxmdwarf-deep-")
    limit = sys.getrecursionlimit()
    try:
        monkeypatch.chdir(top)
        for _ in range(400):
            os.mkdir("d")
            os.chdir("d")
        Path("a.fits").write_text("x")
        monkeypatch.chdir(top)
        sys.setrecursionlimit(len(inspect.stack(0)) + 300)
        yield top
    finally:
        sys.setrecursionlimit(limit)
        os.chdir("/")
        subprocess.run(["rm", "-rf", top], check=True)


def test_folders_may_be_nested_deeper_than_calls(deep_folder):
    # The system may refuse a name that long; the file is then accounted for by its folder.
    assert expand_inputs([deep_folder]).n_in == 1
