"""``jaxmdwarf run``: experiments by name or file, all of whose configuration is options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.cli.experiments import BUILT_IN, find_experiments, load_experiment

ROOT = Path(__file__).parents[2]
in_source_tree = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="not run from the source tree"
)

MINE = """
from dataclasses import dataclass, field

@dataclass(frozen=True)
class NoiseConfig:
    \"\"\"Of the noise.

    Parameters
    ----------
    level : float
        How loud.
    \"\"\"

    level: float = 0.1

@dataclass(frozen=True)
class MineConfig:
    \"\"\"An experiment of my own.\"\"\"

    n: int = 3
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    def run(self, progress=None):
        progress.say("working")
        return {"n": self.n, "level": self.noise.level, "passed": self.n < 10}

LOUD = MineConfig(noise=NoiseConfig(level=5.0))
NUMBER = 3
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


@pytest.mark.parametrize(
    ("which", "options", "found"),
    [
        ("MineConfig", [], {"n": 3, "level": 0.1}),
        ("LOUD", ["--n", "4"], {"n": 4, "level": 5.0}),
        ("LOUD", ["--noise.level", "0.5"], {"n": 3, "level": 0.5}),
    ],
)
def test_an_experiment_of_ones_own_takes_overrides(mine, capsys, which, options, found):
    assert main(["run", f"{mine}:{which}", *options, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {**found, "passed": True}
    assert "working" in shown.err


def test_an_experiment_that_does_not_pass_is_failed_work(mine, capsys):
    assert main(["run", f"{mine}:LOUD", "--n", "10"]) == 1
    assert "False" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine.py:LOUDER", "did you mean LOUD?"),
        ("mine.py:NUMBER", "a method run(progress)"),
        ("other.py:LOUD", "there is no file"),
        ("broken.py:X", "cannot be loaded"),
    ],
)
def test_what_is_no_experiment_is_told(mine, capsys, target, said):
    (mine.parent / "broken.py").write_text("import nothing_of_that_name")
    assert main(["run", f"{mine.parent}/{target}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_help_lists_experiments_and_the_options_of_each(mine, capsys):
    assert main(["run", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in find_experiments())
    assert main(["run", f"{mine}:LOUD", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "How loud. (default: 5.0)" in shown
    assert "An experiment of my own." in shown


def test_listing_experiments_loads_none():
    code = (
        "import sys; from jaxmdwarf.cli import main; main(['run']); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_is_built_in_loads(name):
    assert load_experiment(name, BUILT_IN).out


@in_source_tree
def test_all_experiments_of_the_source_tree_load(monkeypatch):
    known = find_experiments()
    assert {"no_gap", "simulated_survey", "real_lamost", "lamost_dr10"} <= set(known)
    for name in known:
        experiment = load_experiment(name, known)
        assert type(experiment).__name__.endswith("Config")
        assert type(experiment).__doc__.strip()


@in_source_tree
def test_the_paper_run_names_the_data_that_it_lacks(capsys, tmp_path):
    grid = tmp_path / "grid.parquet"
    grid.touch()
    assert main(["run", "lamost_dr10", "--data.grid", str(grid), "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err
    error = told.strip().splitlines()[-1]
    assert "needs --data.spectra, --data.isochrones, --data.reference" in error
    assert "--data.grid" not in error
    assert "PARSEC isochrones of 5 Gyr" in error
    # The checklist, line by line, has what is there and what may be left out too.
    lines = [line for line in told.splitlines() if line.lstrip().startswith("[")]
    assert len(lines) == 5
    assert "[x] --data.grid" in lines[1]
    assert "[ ] --data.reference" in lines[3]
    assert "optional" in lines[4]
    assert not (tmp_path / "o").exists()


@in_source_tree
def test_experiments_are_a_program_too():
    command = [sys.executable, "-m", "experiments"]
    unknown = subprocess.run(
        [*command, "nothing"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert unknown.returncode == 2
    assert "no experiment nothing" in unknown.stderr
