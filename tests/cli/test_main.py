"""The command line as a newcomer meets it."""

import subprocess
import sys

import pytest

from jaxmdwarf import __version__
from jaxmdwarf.cli import COMMANDS, main


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(list(map(str, arguments)))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_version_in_every_way(capsys):
    for words in (["--version"], ["-V"], ["version"]):
        assert run(capsys, *words) == (0, f"jaxmdwarf {__version__}\n", "")


def test_the_package_is_a_program_too():
    command = [sys.executable, "-m", "jaxmdwarf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"jaxmdwarf {__version__}\n"


def test_a_fit_waits_for_no_library_that_it_has_no_use_for():
    code = (
        "import sys, jaxmdwarf.cli.fit, jaxmdwarf.workflows.fitting\n"
        "unused = {'flax', 'optax', 'scipy.optimize', 'sklearn', 'matplotlib', 'specutils'}\n"
        "later = {'pandas', 'pyarrow', 'astropy'}\n"
        "assert not (unused | later) & set(sys.modules), (unused | later) & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_with_its_line(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    text = " ".join(out.split())
    for name, line in COMMANDS.items():
        assert f"{name} {line}" in text
    assert max(map(len, out.splitlines())) < 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_within_80_columns(capsys, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = [name, "--help"] if name != "run" else [name, "quickstart", "--help"]
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    for option in ("--out", "--json", "--quiet", "--verbose", "--log-file", "--no-compile-cache"):
        assert option in out
    assert max(map(len, out.splitlines())) <= 80
    assert "Parameters" not in out
    # Empty defaults say what they stand for.
    assert name == "run" or "(default: )" not in out


WRONG = {
    "measur x.fits": "no command measur. Remedy: did you mean measure?",
    "plot": "no command plot. Remedy: 'jaxmdwarf --help' lists the commands.",
    "--modl x": "no option --modl. Remedy: 'jaxmdwarf --help'",
    "fit a --modl x --out c.fits": "no option --modl. Remedy: did you mean --model?",
    "fit a --min_sn 3": "no option --min-sn. Remedy: did you mean --min-snr",
    "fit a --frobnicate": "no option --frobnicate. Remedy: 'jaxmdwarf fit --help'",
    "fit a --out c.fits --batch-size abc --model m": "--batch-size cannot be 'abc'. Remedy: it "
    "takes a whole number.",
    "fit a --out c.fits --model m --velocity heade": "--velocity cannot be 'heade'. Remedy: did "
    "you mean header?",
    "fit a --out c.fits --model m --velocity": "--velocity has no value. Remedy: it takes fit or "
    "header.",
    "fit a --model m": "'jaxmdwarf fit' needs --out.",
    "validate c --out d": "'jaxmdwarf validate' needs --reference.",
    "validate c d --reference t.csv --out d": "'jaxmdwarf validate' takes no d.",
    "train-emulator g --out m --hidden 16 x": "--hidden cannot be '16 x'. Remedy: it takes a whole "
    "number, several of them.",
    "run qickstart": "no experiment qickstart. Remedy: did you mean quickstart?",
    "run quickstart --pipelin.seed 3": "no option --pipelin.seed. Remedy: did you mean "
    "--pipeline.seed",
    "run quickstart --pipeline.fitting.velocity heade": "--pipeline.fitting.velocity cannot be "
    "'heade'. Remedy: did you mean header?",
    "run quickstart --pipeline.transfer magic": "transfer 'magic' is unknown. Remedy: use one of",
    "run quickstart --pipeline.options.method.settings.n-pases 3": "did you mean "
    "--pipeline.options.method.settings.n-passes",
}


@pytest.mark.parametrize("line", WRONG)
def test_bad_usage_is_one_line_that_says_what_was_meant(capsys, line):
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert err.startswith("jaxmdwarf: ")
    assert err.count("\n") == 1
    assert WRONG[line] in err


def test_an_error_is_one_line_and_bad_usage_is_two(capsys, tmp_path):
    missing = str(tmp_path / "no_model")
    code, _, error = run(capsys, "fit", tmp_path, "--model", missing, "--out", tmp_path / "c.fits")
    assert code == 2
    assert error.count("\n") == 1
    assert "no_model" in error
    assert "train-emulator" in error


def test_verbose_shows_where_an_error_came_from_and_the_log_keeps_all(capsys, tmp_path):
    log = tmp_path / "logs" / "fit.log"
    words = ["fit", tmp_path, "--model", tmp_path / "none", "--out", tmp_path / "c.fits"]
    code, _, error = run(capsys, *words, "-v")
    assert code == 2
    assert "Traceback" in error
    code, _, error = run(capsys, *words, "--log-file", log)
    assert code == 2
    assert "Traceback" not in error
    assert "Traceback" in log.read_text()
    assert error.strip() in log.read_text()


def test_a_log_that_cannot_be_written_is_bad_usage(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    log = tmp_path / "file" / "fit.log"
    words = ["measure", tmp_path, "--out", tmp_path / "t.fits", "--log-file", log]
    code, _, error = run(capsys, *words)
    assert code == 2
    assert "--log-file" in error
    assert not (tmp_path / "t.fits").exists()


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "resumes with the same command"),
        (OSError(28, "No space left on device", "/data/c.fits"), 1, "/data/c.fits: No space left"),
        (MemoryError(), 1, "--batch-size"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1, "--batch-size"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_ends_a_run_from_outside_is_one_line(
    capsys, monkeypatch, tmp_path, raised, code, said
):
    from jaxmdwarf.cli.measure import Command

    def fail(self, terminal):
        raise raised

    monkeypatch.setattr(Command, "run", fail)
    found, _, error = run(capsys, "measure", tmp_path, "--out", tmp_path / "t.fits")
    assert found == code
    assert said in error
    assert error.count("\n") == 1


def test_a_batch_system_stops_a_run_as_ctrl_c_does(tmp_path):
    program = (
        "import sys, time\n"
        "from jaxmdwarf.cli import main\n"
        "from jaxmdwarf.cli.measure import Command\n"
        "def run(self, terminal):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "Command.run = run\n"
        "sys.argv = ['jaxmdwarf', 'measure', 'x', '--out', 't.fits']\n"
        "sys.exit(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], text=True, stdout=-1, stderr=-1, cwd=tmp_path
    ) as running:
        assert running.stdout.readline() == "ready\n"
        running.terminate()
        error = running.stderr.read()
        assert running.wait(timeout=30) == 130
    assert "resumes with the same command" in error


def test_a_fault_of_the_package_is_not_hidden(monkeypatch, tmp_path):
    from jaxmdwarf.cli.measure import Command

    def fail(self, terminal):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Command, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["measure", str(tmp_path), "--out", str(tmp_path / "t.fits")])
