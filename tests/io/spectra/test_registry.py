"""Readers of users: asked first, known to workers, gone when removed."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxmdwarf.errors import RejectedInput, UsageError
from jaxmdwarf.io import registry
from jaxmdwarf.io.rejects import Reject
from jaxmdwarf.io.spectra import (
    SpectrumReader,
    list_readers,
    register_reader,
    unregister_reader,
)
from jaxmdwarf.io.spectra.readers import read_spectra, stream_spectra
from jaxmdwarf.io.spectra.registry import READERS

MODULE = """
import numpy as np
from jaxmdwarf.errors import RejectedInput
from jaxmdwarf.io.spectra import SpectrumReader, SpectrumRecord

def matches(file):
    return file.head.startswith(b"MINE")

def read(file):
    n, error = (int(word) for word in bytes(file.data).split()[1:3])
    wave = np.linspace(590.0, 900.0, 3000)
    found = [
        SpectrumRecord.from_arrays(
            file.path, wave, np.full(3000, 5.0 + row), sigma=0.5, wave_unit="nm", obsid=f"star{row}"
        )
        for row in range(n)
    ]
    if error:
        found[1] = RejectedInput("the second is broken.", "mend it.")
    return found

READER = SpectrumReader("mine", matches, read)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "my_reading.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    import my_reading

    register_reader(my_reading.READER)
    yield my_reading.READER
    if "mine" in list_readers():
        unregister_reader("mine")
    del sys.modules["my_reading"]


def test_a_registered_reader_reads_n_spectra_a_file(tmp_path, mine):
    (tmp_path / "a.mine").write_text("MINE 3 0")
    spectra = read_spectra(tmp_path / "a.mine")
    assert [s.meta.obsid for s in spectra] == ["star0", "star1", "star2"]
    assert [s.meta.index for s in spectra] == [0, 1, 2]
    np.testing.assert_allclose(spectra[2].flux, 7.0)
    np.testing.assert_allclose(spectra[0].wave_aa[[0, -1]], [5900.0, 9000.0])
    unregister_reader("mine")
    with pytest.raises(RejectedInput, match="nor of any other known format"):
        read_spectra(tmp_path / "a.mine")


@pytest.mark.parametrize("processes", [1, 2])
def test_workers_know_registered_readers_and_accounts_hold(tmp_path, mine, processes):
    paths = []
    for number in range(6):
        path = tmp_path / f"{number}.mine"
        path.write_text(f"MINE 4 {number % 2}" if number != 3 else "nothing that is known")
        paths.append(str(path))
    found = list(stream_spectra(paths, processes=processes, chunk_size=2, reject_duplicates=False))
    rejects = [one for one in found if isinstance(one, Reject)]
    # Five files of four spectra and one that cannot be read.
    assert len(found) == 5 * 4 + 1
    assert [(r.path, r.spectrum) for r in rejects] == [
        (paths[1], 1),
        (paths[3], None),
        (paths[5], 1),
    ]
    assert rejects[0].reason == "the second is broken"
    places = [(s.meta.path, s.meta.index) for s in found if not isinstance(s, Reject)]
    assert len(set(places)) == 18


def test_copies_within_and_across_files_are_found(tmp_path, mine):
    for name in ("a", "b"):
        (tmp_path / name).write_text("MINE 2 0")
    paths = [str(tmp_path / name) for name in "ab"]
    rejects = [r for r in stream_spectra(paths, processes=1) if isinstance(r, Reject)]
    assert [(r.path, r.spectrum) for r in rejects] == [(paths[1], 0), (paths[1], 1)]
    assert rejects[1].reason == f"the same spectrum as {paths[0]}[1]"


def test_readers_of_a_script_work_in_its_own_process(tmp_path):
    """They cannot be found by others, and a script without a main guard must not run again."""
    script = tmp_path / "script.py"
    script.write_text(
        MODULE
        + textwrap.dedent(
            """
            import os
            from jaxmdwarf.io.spectra import register_reader
            from jaxmdwarf.io.spectra.readers import stream_spectra
            register_reader(READER)
            paths = []
            for number in range(8):
                paths.append(f"{os.path.dirname(__file__)}/{number}.mine")
                open(paths[-1], "w").write("MINE 1 0")
            found = stream_spectra(paths, processes=2, chunk_size=2, reject_duplicates=False)
            print([spectrum.meta.obsid for spectrum in found])
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == str(["star0"] * 8)


def test_the_newest_reader_is_asked_first_and_names_are_unique(mine):
    built_in = ("lamost", "lamost-mrs", "sdss", "sdss-mwm", "desi", "specutils")
    other = SpectrumReader("other", mine.matches, mine.read)
    register_reader(other)
    assert list_readers() == ("other", "mine", *built_in)
    again = SpectrumReader("mine", mine.matches, mine.read)
    register_reader(again)
    assert list_readers() == ("mine", "other", *built_in)
    assert READERS.entries()[0] is again
    unregister_reader("other")
    with pytest.raises(UsageError, match="no spectrum reader 'other'"):
        unregister_reader("other")


@pytest.mark.parametrize("what", [object(), SpectrumReader, "mine", SpectrumReader("", len, len)])
def test_what_is_no_reader_is_refused(what):
    with pytest.raises(UsageError, match="is no spectrum reader"):
        register_reader(what)


def test_packages_declare_readers_as_entry_points(tmp_path, monkeypatch):
    (tmp_path / "plug_in.py").write_text(MODULE)
    info = tmp_path / "plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jaxmdwarf.readers]\nmine = plug_in:READER\nbroken = plug_in:NOTHING\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(READERS, "_installed", None)
    with pytest.warns(UserWarning, match="'broken'.*cannot be loaded"):
        names = list_readers()
    assert names[0] == "mine"
    for number in range(4):
        (tmp_path / f"{number}.mine").write_text(f"MINE 1 {number * 0}")
    paths = [str(tmp_path / f"{number}.mine") for number in range(4)]
    found = list(stream_spectra(paths, processes=2, chunk_size=1, reject_duplicates=False))
    assert [spectrum.meta.obsid for spectrum in found] == ["star0"] * 4
    monkeypatch.setattr(READERS, "_installed", None)
    sys.modules.pop("plug_in")


def test_what_cannot_be_sent_keeps_the_work_at_home():
    register_reader(SpectrumReader("local", lambda file: False, lambda file: []))
    try:
        assert registry.pack_extras() is None
    finally:
        unregister_reader("local")
    assert registry.pack_extras() is not None
