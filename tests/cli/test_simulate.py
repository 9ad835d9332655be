import pytest

from jaxmdwarf.cli import main


@pytest.mark.parametrize(
    "options", [["--n", "0"], ["--gap", "teluric"], ["--gap", "7"], ["--seed", "-1"]]
)
def test_bad_usage_is_told_and_ends_with_code_2(options, tmp_path, capsys):
    assert main(["simulate", "--out", str(tmp_path / "x"), *options]) == 2
    assert "Remedy" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_help_names_every_cause(capsys):
    from jaxmdwarf.simulate.gap import CAUSES

    assert main(["simulate", "--help"]) == 0
    text = "".join(capsys.readouterr().out.split())
    assert all(name in text for name in CAUSES)
