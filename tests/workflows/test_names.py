"""Files by any name, headers with any text: every row comes back, nothing foreign is shown."""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxmdwarf.catalogue.texts import restore_path
from jaxmdwarf.cli import main
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.provenance import gather_provenance, hash_files
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_rows
from jaxmdwarf.io.tables import read_table, write_table
from jaxmdwarf.report.page import Report, Section, Text, render_report
from jaxmdwarf.workflows.measuring import read_velocities
from tests.io.conftest import write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")

NAMES = (
    b"plain.fits", "étoile 中 🌟.fits".encode(), b"\xe9toile.fits", b"a#b.fits", b"#hash.fits",
    b"a\rb.fits", b"a\nb.fits", b"a\tb.fits", b'a"b,c.fits', b"a|b.fits", b"a\x1b[31mred.fits",
    "a\u2028b\x85.fits".encode(), b"=cmd.fits", b"-x.fits", b" lead.fits", b"trail.fits ", b"nan",
    b"NULL", b"a\\x0a.fits", b"a\\b.fits", b"@list",
)  # fmt: skip
SPOILT = (b"=bad\n.fits", b"\xe9bad.fits", b"bad\x1b]0;x\x07.fits", b"#bad.fits")
FORMATS = ("fits", "parquet", "vot", "csv", "ecsv", "mrt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    (folder / "in").mkdir()
    for number, name in enumerate(NAMES):
        write(folder / "new.fits", seed=number, obsid=1000 + number)
        content = (folder / "new.fits").read_bytes()
        # What a broken pipeline, or somebody who means it, has written into a header.
        content = content.replace(b"'M0      '", b"'M\x1b[0m\x07  '")
        (folder / "new.fits").write_bytes(content.replace(b"'STAR    '", b"'=1+1    '"))
        os.rename(folder / "new.fits", os.path.join(os.fsencode(folder), b"in", name))
    for name in SPOILT:
        with open(os.path.join(os.fsencode(folder), b"in", name), "wb") as file:
            file.write(b"no spectrum")
    return folder


@pytest.fixture
def inside(folder, monkeypatch):
    """Names without a folder in front of them: what a table then begins a cell with is theirs."""
    monkeypatch.chdir(folder / "in")
    return folder


def test_every_name_comes_back_from_every_format(inside, capsys):
    names = [os.fsdecode(name) for name in (*NAMES, *SPOILT)]
    words = [name if name[0] not in "-@" else f"./{name}" for name in names]
    assert main(["measure", *words, "--out", "../T.parquet", "--processes", "1", "--json"]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    first = read_table("../T.parquet")
    for extension in FORMATS:
        write_table(first, f"../T.{extension}", provenance=gather_provenance(command=words))
        table = read_table(f"../T.{extension}")
        assert [restore_path(path) for path in table["path"]] == words[: len(NAMES)], extension
        assert table["path"].tolist() == first["path"].tolist()
        assert table["obsid"].tolist() == list(range(1000, 1000 + len(NAMES)))
        assert set(table["Subclass"]) == {"M\\x1b[0m\\x07"}
        assert set(table["Class"]) == {"=1+1"}
    with open("../T.csv", newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    rejects = read_rejects("../T_rejects.csv")
    assert [one.path for one in rejects] == words[len(NAMES) :]
    text = Path("../T_rejects.csv").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    assert not [line for line in text.splitlines() if line[0] in "=@#"]
    velocities = read_velocities("../T.csv", "RV_used").velocities
    assert set(words[: len(NAMES)]) <= velocities.keys()
    spectra = read_rows(table["path"].tolist())
    assert len({float(raw.flux[0]) for raw in spectra}) == len(NAMES)


def test_names_come_back_from_a_list(inside):
    from jaxmdwarf.catalogue.texts import escape_path

    names = [os.fsdecode(name) for name in NAMES]
    with open("../list.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{escape_path(name)}\n" for name in names)
    found = expand_inputs("@../list.txt")
    assert not found.rejects
    assert list(found.paths) == names


def test_errors_and_pages_show_no_control_characters(inside, capsys):
    assert main(["measure", "a\x1b]0;owned\x07.fits", "--out", "x\x1b[2J.tst"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxmdwarf: ")
    assert error.rstrip("\n").isprintable()
    page = render_report(Report("t", "", [Section("s", [Text("a\x1b[31m\x00<script>\nb")])]))
    assert "a\\x1b[31m\\x00&lt;script&gt;\nb" in page


def test_models_with_any_file_names_have_a_hash(inside):
    assert hash_files(inside / "in") == hash_files(inside / "in")
    assert gather_provenance(command=["fit", "\udce9a\n"]).command == "fit '\\xe9a\\x0a'"


def test_what_was_read_is_what_the_name_says(inside):
    found = expand_inputs(".").paths
    assert {os.fsencode(path) for path in found} == {*NAMES, *SPOILT}
    assert np.unique([os.stat(path).st_ino for path in found]).size == len(found)
