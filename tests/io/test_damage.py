"""Damaged inputs: a reason, never another error, soon; a few of the many that the driver makes.

``python -m tests.tools.fuzz`` tries as many as it is told.
"""

import pytest

from tests.tools import fuzz

N_INPUT = {"spectra": 80, "models": 150, "grids": 80, "tables": 100, "directories": 80}


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_inputs_have_a_reason(tmp_path, monkeypatch, kind):
    pytest.importorskip("specutils")
    # The corpus that every machine has.
    monkeypatch.delenv("JAXMDWARF_TEST_DATA", raising=False)
    found = fuzz.run_kind(kind, range(N_INPUT[kind]), 7, tmp_path)
    assert not found.foreign, dict(found.foreign)
    assert not found.slow
    assert found.n == found.refused + found.passed == N_INPUT[kind]
    assert found.refused > 0.3 * found.n
    # Of a model directory next to nothing may change.
    assert found.passed > 0 or kind == "directories"
    # Spectra that pass with other pixels than the whole file are few.
    assert sum(found.changed.values()) <= 0.05 * found.n


def test_the_driver_notices_what_it_is_for(tmp_path, monkeypatch):
    """A foreign error, a reason of two lines, and work without end, each known by its number."""

    def read(path):
        size = len(open(path, "rb").read())  # noqa: SIM115
        if size % 3 == 0:
            raise KeyError("foreign")
        if size % 3 == 1:
            raise fuzz.RejectedInput("two\nlines", "none")
        while True:
            pass

    monkeypatch.setitem(
        fuzz.KINDS,
        "test",
        (lambda folder: [("a", b"x", read)], lambda one, rng: one * rng.choice((3, 4, 5))),
    )
    # Of the second on the clock a busy machine may give a twentieth.
    monkeypatch.setattr(fuzz, "SLOW_S", 0.05)
    monkeypatch.setattr(fuzz, "HANG_S", 1)
    found = fuzz.run_kind("test", range(6), 3, tmp_path)
    assert sorted(what.split(":")[0] for what in found.foreign) == [
        "a",
        "a",
        "no reason on one line",
    ]
    assert any("Hang" in what for what in found.foreign)
    assert found.n_bad == found.n + len(found.slow) == 6 + len(found.slow) > 6
    assert set(found.first.values()) <= set(range(6))
    assert [number for number, _ in found.slow]


def test_an_input_is_made_again_from_its_number(tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert fuzz.main(["--only", "grids", "3"]) == 0
    one, two = (next((tmp_path / name).glob("grids-3/*")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert '"refused": 1' in capsys.readouterr().out
