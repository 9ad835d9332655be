"""The command line as a newcomer meets it."""

import pytest

from jaxmdwarf import __version__
from jaxmdwarf.cli import COMMANDS, main


def test_version_both_ways(capsys):
    assert main(["--version"]) == 0
    assert main(["version"]) == 0
    assert capsys.readouterr().out.count(__version__) == 2


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_command_with_its_line(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, line in COMMANDS.items():
        assert name in text
        assert line in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--out" in text


def test_a_misspelt_command_is_bad_usage_that_names_the_right_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["measur", "x.fits"])
    assert stop.value.code == 2
    assert "measure" in capsys.readouterr().err


def test_an_error_is_one_line_and_bad_usage_is_two(capsys, tmp_path):
    missing = str(tmp_path / "no_model")
    code = main(["fit", str(tmp_path), "--model", missing, "--out", str(tmp_path / "c.fits")])
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert "no_model" in error
    assert "train-emulator" in error
