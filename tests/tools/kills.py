"""``kill -9`` at random moments of every long command, then the same command: is anything lost?

    python -m tests.tools.kills --kills 10 --seed 1 --commands measure fit --out result.json

Every command works on a small input, with chunks, batches or checkpoints so small that there are
several. It runs to its end twice, undisturbed; the two must agree, and the second one says how long
it works. Then it is started and killed, as often as was asked for, and each time given again until
it ends: what it then has written must be what the undisturbed run wrote, tables value for value,
arrays bit for bit. Left out are dates, durations and rates; pictures and pages need only be there.

``--at time`` kills at moments that are uniformly random between the first file that the command
makes and its end, up to five times before it may end; every other time the whole group of
processes is killed, else the main process alone, whose readers have to end by themselves.
``--at files`` kills before an operation on a file or folder of the outputs (opened for writing,
renamed, removed, made): those of its last steps, where products take their places, and random
earlier ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
LAST_S = 280.0
"""No run takes longer than this."""

MOST_TOGETHER = 5
"""Kills of one run before it may end."""

VOLATILE = frozenset(
    [
        "created",
        "date",
        "made_at",
        "wall_s",
        "seconds",
        "timing_s",
        "spectra_per_s",
        "fit_spectra_per_s",
        "compile_s",
        "iterations_per_s",
        "seconds_per_step",
        "sha256",
        "fitted_now",
    ]
)
"""Entries of JSON that tell when, how fast and how much of it after the last start, or sum up files
that hold such entries."""

HASHES = frozenset(["inputs", "model_hash"])
"""Entries that may be hashes of what the run itself has made."""

WATCH = """
import atexit, os, signal, sys
_place, _at, _main, _n = os.getcwd(), int(os.environ.get("KILLS_AT", "-1")), os.getpid(), 0
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod"}
def _watch(event, args):
    global _n
    if event == "open":
        if not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event not in _EVENTS:
        return
    if isinstance(args[0], int) or os.getpid() != _main:
        return
    if os.path.abspath(os.fsdecode(args[0])).startswith(_place):
        _n += 1
        if _n == _at:
            os.killpg(0, signal.SIGKILL)
if _at >= 0:
    sys.addaudithook(_watch)
    atexit.register(lambda: print(f"OPERATIONS {_n}", file=sys.stderr))
"""
"""Counts the operations on files of the outputs, and dies before one of them."""

BY_COMMAND_LINE = "from jaxmdwarf.cli import main\nsys.exit(main())\n"


class Command(NamedTuple):
    """How a command is run.

    Parameters
    ----------
    program : str
        Python, after `WATCH`; settings that make chunks small, then the command.
    words : list of str
        Its arguments; outputs are relative to the folder it runs in.
    """

    program: str
    words: list[str]


# Inputs, as small as they can be and still come in several parts.


def prepare_measure(folder: Path) -> Command:
    from tests.io.conftest import write

    night = folder / "night"
    night.mkdir()
    content = write(folder / "one.fits").read_bytes()
    for number in range(240):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (night / f"{number:03d}.fits").write_bytes(changed)
    (night / "text.fits").write_text("no spectrum")
    small = "import jaxmdwarf.workflows.measuring as stage\nstage.CHUNK_SIZE = 12\n"
    words = ["measure", str(night), "--out", "T.csv", "--processes", "2"]
    return Command(small + BY_COMMAND_LINE, words)


def prepare_pack(folder: Path) -> Command:
    from tests.io.conftest import write
    from tests.io.spectra.conftest import write_desi

    night = folder / "night"
    night.mkdir()
    content = write(folder / "one.fits").read_bytes()
    for number in range(240):
        changed = content.replace(b"740103011", b"%09d" % (740_000_000 + number))
        (night / f"{number:03d}.fits").write_bytes(changed)
    # Another group, which stands between the two halves of the first.
    write_desi(night / "120_coadd.fits", 24)
    (night / "text.fits").write_text("no spectrum")
    small = "import jaxmdwarf.workflows.packing as stage\nstage.CHUNK_SIZE = 12\n"
    words = ["pack", str(night), "--out", "survey.zarr", "--processes", "2"]
    return Command(small + BY_COMMAND_LINE, words)


def prepare_fit(folder: Path) -> Command:
    from jaxmdwarf.io.models import save_model
    from tests.workflows.conftest import _write_stars
    from tests.workflows.test_interruption import make_emulator, write_survey

    model = save_model(make_emulator(), folder / "emulator")
    survey = write_survey(folder / "survey", 96, _write_stars)
    words = ["fit", str(survey), "--model", str(model), "--out", "T.fits"]
    return Command(BY_COMMAND_LINE, [*words, "--chunk-size", "8", "--processes", "2"])


def prepare_clean(folder: Path) -> Command:
    from tests.workflows.conftest import _write_stars
    from tests.workflows.test_cleaning import GRID

    night, rng, wave = folder / "night", np.random.default_rng(4), GRID.wave_aa
    night.mkdir()
    band = np.where((wave > 7050) & (wave < 7300), 0.5, 0.0)
    dwarfs = [(wave / 7000.0) ** 3 * (1 - band * rng.uniform(0.8, 1.2)) for _ in range(48)]
    blue = [(wave / 7000.0) ** -4 * rng.uniform(0.9, 1.1) for _ in range(16)]
    place: dict[str, Any] = {"log10_start": 3.77, "n_pix": 1830, "snr_r": 40.0}
    _write_stars(night, GRID, np.stack([*dwarfs, *blue]), np.zeros(64), 60.0, rng, **place)
    small = "import jaxmdwarf.workflows.cleaning as stage\nstage.CHUNK_SIZE = 8\n"
    words = ["clean", str(night), "--out", "good.txt", "--processes", "2"]
    words += ["--cleaning.n-clusters", "4", "--cleaning.min-members", "4"]
    return Command(small + BY_COMMAND_LINE, words)


def prepare_grid(folder: Path) -> Command:
    from tests.io.grids.conftest import model_flux, svo_bytes
    from tests.workflows.test_gridding import WAVE

    models = folder / "models"
    models.mkdir()
    for number in range(48):
        labels = {"teff": 3000 + 20 * number, "logg": 4.5 + number % 3 / 2, "meta": 0, "alpha": 0}
        flux = model_flux(WAVE) * (1 + number / 9)
        (models / f"{number:02d}.txt").write_bytes(svo_bytes(WAVE, flux, **labels))
    small = "import jaxmdwarf.workflows.gridding as stage\nstage.CHUNK_SIZE = 4\n"
    words = ["grid", str(models), "--out", "grid.parquet", "--processes", "2"]
    words += ["--start-aa", "6800", "--stop-aa", "7200"]
    return Command(small + BY_COMMAND_LINE, words)


def prepare_simulate(folder: Path) -> Command:
    program = (
        "from jaxmdwarf.simulate.survey import SurveyConfig\n"
        "from jaxmdwarf.workflows.simulation import simulate_files\n"
        "config = SurveyConfig(n_spectra=64, seed=4, stars_per_batch=8)\n"
        "simulate_files('survey', config=config, n_grid=16, csv=True)\n"
    )
    return Command(program, [])


def prepare_train_emulator(folder: Path) -> Command:
    from jaxmdwarf.io.grids.table import ModelGrid, write_grid
    from jaxmdwarf.labels import LabelSpace
    from tests.workflows.test_emulator import PIXELS

    space, wave = LabelSpace.mdwarf(), PIXELS.wave_aa
    labels = space.unscale(np.random.default_rng(0).uniform(-0.4, 0.4, (60, 4)))
    band = np.exp(-(wave - 7054.0) / 60.0) * (wave > 7054.0)
    depth = 10 ** (labels[:, 2:3] - (labels[:, :1] - 3400.0) / 500.0)
    flux = 1e6 * (labels[:, :1] / 3400.0) ** 4 * wave / 7000.0 / (1.0 + depth * band)
    grid = ModelGrid(labels, space, flux.astype(np.float32), PIXELS, 1800.0, "simulated")
    write_grid(grid, folder / "grid.parquet")
    small = "import jaxmdwarf.workflows.emulator as stage\nstage.CHECKPOINT_SECONDS = 0.2\n"
    words = ["train-emulator", str(folder / "grid.parquet"), "--out", "emulator"]
    words += ["--hidden", "24", "--rank", "4", "--steps", "8000"]
    return Command(small + BY_COMMAND_LINE, words)


def _prepare_transfer(folder: Path, n_star: int) -> list[str]:
    """Spectra, a model and a reference; their paths."""
    import jax.numpy as jnp

    from jaxmdwarf.io.models import save_model
    from jaxmdwarf.training.labels.training_set import sample_training_labels
    from tests.workflows.conftest import _write_stars
    from tests.workflows.test_transfer import GRID, OPTIONS, make_emulator

    emulator, rng = make_emulator(), np.random.default_rng(9)
    model, night = save_model(emulator, folder / "emulator"), folder / "night"
    night.mkdir()
    labels = sample_training_labels(n_draws=n_star, seed=3, config=OPTIONS.labels).labels
    scaled = emulator.label_space.scale(jnp.asarray(labels))
    rest = np.asarray(emulator.predict_scaled_batch(scaled))
    place: dict[str, Any] = {"log10_start": 3.765, "n_pix": 620, "snr_r": 30.0}
    _write_stars(night, GRID, rest, rng.uniform(-150, 150, n_star), 30.0, rng, **place)
    (night / "star-010-empty.fits").write_bytes(b"")
    known = sample_training_labels(n_draws=400, seed=5, config=OPTIONS.labels).labels
    table = pd.DataFrame({"teff": known[:, 0], "mh": known[:, 2]})
    table.to_csv(folder / "reference.csv", index=False)
    return [str(night), str(model), str(folder / "reference.csv")]


def prepare_matched(folder: Path) -> Command:
    night, model, reference = _prepare_transfer(folder, 240)
    words = ["train-transfer", night, "--emulator", model, "--reference", reference]
    words += ["--out", "transfer", "--velocity", "header", "--no-m-dwarfs-only"]
    words += ["--max-teff", "9999", "--min-overlap", "0", "--force", "--processes", "2"]
    return Command(BY_COMMAND_LINE, words)


def prepare_cyclestar(folder: Path) -> Command:
    words = _prepare_transfer(folder, 60)
    program = (
        "from dataclasses import replace\n"
        "from jaxmdwarf.workflows.transfer import train_transfer_files\n"
        "from tests.workflows.test_transfer import OPTIONS\n"
        "networks = OPTIONS.method.settings.vary(steps=200, report_every=10)\n"
        "options = replace(OPTIONS, method=replace(OPTIONS.method, settings=networks))\n"
        "night, model, reference = sys.argv[1:]\n"
        "train_transfer_files([night], model, reference, 'transfer', options, processes=1)\n"
    )
    return Command(program, words)


def prepare_catalogue(folder: Path) -> Command:
    from jaxmdwarf.io.tables import write_table
    from tests.workflows.test_cataloguing import make_fits

    write_table(make_fits(), folder / "fits.parquet")
    return Command(BY_COMMAND_LINE, ["catalogue", str(folder / "fits.parquet"), "--out", "CAT.csv"])


def prepare_validate(folder: Path) -> Command:
    from jaxmdwarf.io.tables import write_table
    from tests.workflows.test_cataloguing import make_fits

    fits, rng = make_fits(), np.random.default_rng(2)
    write_table(fits, folder / "fits.parquet")
    truth = fits[["obsid"]].assign(
        teff=fits["Teff"] + rng.normal(0, 30, len(fits)),
        logg=fits["Logg"] + rng.normal(0, 0.02, len(fits)),
        mh=fits["M_H"] + rng.normal(0, 0.05, len(fits)),
    )
    write_table(truth, folder / "truth.parquet")
    words = ["validate", str(folder / "fits.parquet"), "--reference", str(folder / "truth.parquet")]
    return Command(BY_COMMAND_LINE, [*words, "--out", "judged", "--keep-flagged"])


def prepare_quickstart(folder: Path) -> Command:
    program = (
        "from dataclasses import replace\n"
        "from jaxmdwarf.inference.config import FitConfig\n"
        "from jaxmdwarf.quickstart.products import QuickstartConfig\n"
        "from jaxmdwarf.quickstart.run import run_quickstart\n"
        "from jaxmdwarf.training.emulator.config import EmulatorConfig, ScheduleConfig\n"
        "training = EmulatorConfig(schedule=ScheduleConfig(steps=200, report_every=50))\n"
        "fitting = replace(FitConfig(), chunk_size=16)\n"
        "config = QuickstartConfig(\n"
        "    n_spectra=40, n_grid=32, seed=2, transfer='none', training=training, fitting=fitting\n"
        ")\n"
        "run_quickstart('first', config, processes=1, finished='return')\n"
    )
    return Command(program, [])


COMMANDS: dict[str, Callable[[Path], Command]] = {
    "measure": prepare_measure,
    "pack": prepare_pack,
    "fit": prepare_fit,
    "clean": prepare_clean,
    "grid": prepare_grid,
    "simulate": prepare_simulate,
    "train-emulator": prepare_train_emulator,
    "train-transfer matched": prepare_matched,
    "train-transfer cyclestar": prepare_cyclestar,
    "catalogue": prepare_catalogue,
    "validate": prepare_validate,
    "quickstart": prepare_quickstart,
}


# Running and killing.


@dataclass
class Outcome:
    """What became of a command.

    Parameters
    ----------
    work_s : float
        From its first file to its end, undisturbed.
    start_s : float
        Before that.
    kills : list of (moment, what was killed)
        Shares of the work, or numbers of operations.
    missed : int
        Kills that came after the end; they do not count.
    runs : int
        Runs that were killed, once or more, and then ended.
    complete : int
        Of these, those that had written all when they were killed: the command says that its
        output exists, and that is as it should be.
    findings : list of str
        Whatever is not as in the undisturbed run.
    """

    work_s: float = 0.0
    start_s: float = 0.0
    kills: list[tuple[float, str]] = field(default_factory=list)
    missed: int = 0
    runs: int = 0
    complete: int = 0
    findings: list[str] = field(default_factory=list)


class Runner:
    """A command in folders of its own, one a try."""

    def __init__(self, command: Command, folder: Path) -> None:
        self._command, self._folder, self._began = command, folder, 0.0

    def make_place(self) -> Path:
        """An empty folder to run in."""
        place = self._folder / "now"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def start(self, place: Path, at: int = -1) -> subprocess.Popen:
        """The command as the leader of a group; it dies before operation `at`."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KILLS_AT": str(at),
            # Runs of one command find what earlier ones have compiled, whole or cut.
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        }
        words = [sys.executable, "-c", WATCH + self._command.program, *self._command.words]
        with open(self._folder / "stderr", "wb") as errors:
            return subprocess.Popen(
                words,
                cwd=place,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def finish(self, place: Path, at: int = -1) -> tuple[int, str]:
        """Run to the end; exit status and what was said."""
        process = self.start(place, at)
        try:
            code = process.wait(LAST_S)
        except subprocess.TimeoutExpired:
            end_group(process)
            return -1, f"did not end in {LAST_S:.0f} s"
        end_group(process)
        return code, (self._folder / "stderr").read_text(errors="replace")

    def wait_for_work(self, process: subprocess.Popen, place: Path) -> float:
        """When the first file or folder of the outputs was there, or a lock was taken again."""
        while process.poll() is None and not any(
            is_newer(path, self._began) for path in (place, *place.glob("*"), *place.rglob("lock"))
        ):
            time.sleep(0.002)
        return time.monotonic()

    def kill_at(self, place: Path, seconds: float, *, whole: bool) -> bool:
        """Start, and kill so long after the first file; whether it was still running."""
        self._began = time.time()
        process = self.start(place)
        began = self.wait_for_work(process, place)
        while process.poll() is None and time.monotonic() < began + seconds:
            time.sleep(0.001)
        alive = process.poll() is None
        if alive and not whole:
            process.kill()
            process.wait()
            # Readers whose main process is gone end by themselves.
            until = time.monotonic() + 20
            while group_lives(process.pid):
                if time.monotonic() > until:
                    end_group(process)
                    raise Finding("reader processes outlive the main process")
                time.sleep(0.01)
        end_group(process)
        return alive and process.returncode == -signal.SIGKILL


def is_newer(path: Path, moment: float) -> bool:
    """Whether something was changed since, if it is there."""
    try:
        return path.stat().st_mtime > moment
    except FileNotFoundError:
        return False


class Finding(Exception):
    """Something that is not as it should be."""


def end_group(process: subprocess.Popen) -> None:
    """Kill what is left of a group of processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def group_lives(pid: int) -> bool:
    """Whether a group has processes."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def try_command(
    name: str,
    folder: Path,
    *,
    kills: int,
    rng: random.Random,
    at: str = "time",
    until: float = float("inf"),
) -> Outcome:
    """Run a command undisturbed, then killed; see the module."""
    outcome = Outcome()
    folder.mkdir(parents=True)
    inputs = folder / "inputs"
    inputs.mkdir()
    runner = Runner(COMMANDS[name](inputs), folder)
    try:
        whole, n_operation = run_whole(runner, folder, outcome)
    except Finding as error:
        outcome.findings.append(str(error))
        return outcome
    plan = plan_operations(n_operation, kills, rng) if at == "files" else []
    while len(outcome.kills) < kills and not (at == "files" and not plan):
        if time.monotonic() > until:
            break
        place = runner.make_place()
        began = len(outcome.kills)
        try:
            if at == "files":
                number = plan.pop()
                code, _ = runner.finish(place, number)
                if code != -signal.SIGKILL:
                    outcome.missed += 1
                    continue
                outcome.kills.append((number, f"operation of {n_operation}"))
            else:
                kill_by_time(runner, place, outcome, kills, rng)
            if len(outcome.kills) > began:
                outcome.runs += 1
                end_and_compare(runner, place, whole, outcome)
        except Finding as error:
            moments = outcome.kills[began:]
            outcome.findings.append(f"killed at {moments}: {error}")
    return outcome


def run_whole(runner: Runner, folder: Path, outcome: Outcome) -> tuple[Path, int]:
    """Two undisturbed runs that agree; the products of the first, and operations of the second."""
    whole = folder / "whole"
    for last in (False, True):
        place = runner.make_place()
        runner._began = time.time()
        began = time.monotonic()
        process = runner.start(place, 0)
        at_work = runner.wait_for_work(process, place)
        code = process.wait(LAST_S)
        outcome.start_s, outcome.work_s = at_work - began, time.monotonic() - at_work
        said = (folder / "stderr").read_text(errors="replace")
        if code != 0:
            raise Finding(f"the undisturbed command ends with {code}: {said[-600:]}")
        if last:
            differ = compare(whole, place)
            if differ:
                raise Finding(f"two undisturbed runs differ: {differ[:5]}")
        else:
            place.rename(whole)
    count = [line for line in said.splitlines() if line.startswith("OPERATIONS")]
    return whole, int(count[-1].split()[1])


def plan_operations(n: int, kills: int, rng: random.Random) -> list[int]:
    """Half of them among the last twenty, where products take their places; else anywhere."""
    last = list(range(max(1, n - 19), n + 1))
    early = list(range(1, last[0]))
    chosen = rng.sample(last, min(len(last), -(-kills // 2)))
    chosen += rng.sample(early, min(len(early), kills - len(chosen)))
    return sorted(chosen)


def kill_by_time(
    runner: Runner, place: Path, outcome: Outcome, kills: int, rng: random.Random
) -> None:
    """Kill a run once or more, at random moments of what it does undisturbed."""
    for _ in range(rng.randint(1, MOST_TOGETHER)):
        if len(outcome.kills) >= kills:
            return
        share, whole = rng.random(), len(outcome.kills) % 2 == 0
        if not runner.kill_at(place, share * outcome.work_s, whole=whole):
            outcome.missed += 1
            return
        outcome.kills.append((round(share, 3), "group" if whole else "main process"))


def end_and_compare(runner: Runner, place: Path, whole: Path, outcome: Outcome) -> None:
    """Give the command again, until it ends; raise `Finding` where products differ."""
    code, said = runner.finish(place)
    # From the command line, or as an exception of what was called in Python.
    refused = code == 2 or "errors.UsageError" in said
    was_complete = refused and "exists" in said
    if code != 0 and not was_complete:
        raise Finding(f"the same command ends with {code}: {said.strip()[-600:]}")
    outcome.complete += was_complete
    differ = compare(whole, place, with_remains=was_complete)
    if differ:
        raise Finding(f"{'complete, but ' if was_complete else ''}{differ[:5]}")


# Comparing.


def compare(whole: Path, other: Path, *, with_remains: bool = False) -> list[str]:
    """How the products in two folders differ.

    Parameters
    ----------
    with_remains : bool
        Whether work folders and hidden files may be there: nothing ran after they were left.
    """
    found: list[str] = []
    sets = []
    for root in (whole, other):
        paths = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        sets.append({path for path in paths if not (with_remains and is_remain(path))})
    found += [f"missing: {name}" for name in sorted(sets[0] - sets[1])]
    found += [f"left behind: {name}" for name in sorted(sets[1] - sets[0])]
    for name in sorted(sets[0] & sets[1]):
        try:
            if not same_content(whole / name, other / name):
                found.append(f"differs: {name}")
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def is_remain(name: str) -> bool:
    """Whether a path is of a work folder, or of a file that was being written."""
    return any(part.startswith(".") or part.endswith(".partial") for part in Path(name).parts)


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same, but for dates and durations."""
    if one.suffix in (".png", ".html") or one.name == "lock":
        return True
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix in (".parquet", ".fits", ".csv"):
        from jaxmdwarf.io.tables import read_table

        pd.testing.assert_frame_equal(read_table(one), read_table(other), check_exact=True)
        return True
    if one.suffix == ".npz":
        with np.load(one) as left, np.load(other) as right:
            return left.files == right.files and all(
                left[name].dtype == right[name].dtype
                and left[name].tobytes() == right[name].tobytes()
                for name in left.files
            )
    if one.suffix in (".json", ".jsonl"):
        lines = one.suffix == ".jsonl"
        return list(read_stable(one, lines=lines)) == list(read_stable(other, lines=lines))
    return False


def read_stable(path: Path, *, lines: bool) -> Iterator[Any]:
    """JSON without what is `VOLATILE`."""
    text = path.read_text(encoding="utf-8")
    for part in text.splitlines() if lines else [text]:
        yield strip(json.loads(part))


def strip(value: Any) -> Any:
    """A tree without `VOLATILE` entries; NaN equal to itself."""
    if isinstance(value, dict):
        return {
            key: strip(one)
            for key, one in value.items()
            # Hashes of a table or a model that the same run has made: with dates in them.
            if key not in VOLATILE and not (key in HASHES and isinstance(one, str))
        }
    if isinstance(value, list):
        return [strip(one) for one in value]
    return repr(value)


def main(argv: list[str] | None = None) -> int:
    """Run and report; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at", choices=("time", "files"), default="time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for each command")
    parser.add_argument("--out", type=Path, help="JSON, to which results are added")
    given = parser.parse_args(argv)
    known: dict[str, Any] = {}
    if given.out and given.out.exists():
        known = json.loads(given.out.read_text(encoding="utf-8"))
    n_finding = 0
    for name in given.commands:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            rng = random.Random(f"{name} {given.seed} {given.at}")
            place = Path(folder) / "try"
            try:
                until = time.monotonic() + 60 * given.minutes
                outcome = try_command(
                    name, place, kills=given.kills, rng=rng, at=given.at, until=until
                )
            except Exception:
                outcome = Outcome(findings=[traceback.format_exc()])
        n_finding += len(outcome.findings)
        found = {"seed": given.seed, **asdict(outcome)}
        found["work_s"], found["start_s"] = (round(found[k], 1) for k in ("work_s", "start_s"))
        print(json.dumps({f"{name}, by {given.at}": found}, indent=1), flush=True)
        known.setdefault(name, {}).setdefault(given.at, []).append(found)
        if given.out:
            given.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return int(n_finding > 0)


if __name__ == "__main__":
    sys.exit(main())
