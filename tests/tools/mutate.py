"""Single small changes of the code, one at a time, and whether the tests notice them.

    python -m tests.tools.mutate --seed 5 --n 60 --test-seconds 150 --out new.json
    python -m tests.tools.mutate --out ... --minutes 4        # goes on with what is pending there
    python -m tests.tools.mutate --out ... --again survived   # after tests were added
    python -m tests.tools.mutate --out ... --score

Wants the extra ``mutation``: what can be changed, and how, comes from Cosmic Ray's operators. Here
a sample is drawn that the seed alone decides (rooms by their lines, then a line, then one change of
it), each mutant is put into a copy of the tree, and the test files that should notice it are run
there: those that import its module or are named after it, those of the modules of its room that
import it, those of its folder; nearest and quickest first, up to `--test-seconds`. A test that
fails, or a run beyond `find_limit`, kills the mutant; at the end every test that killed one is run
on the code as it stands, and kills by tests that fail there are taken back. Real spectra are left
out, so that the score is the same for all.

No mutants are made of what is not behaviour: annotations; formatted texts with a blank in them
(errors, reasons, logs, progress); ``__repr__`` and ``__str__``; decorators that only save time;
options of decorators; ``strict`` of ``zip``; what only static checkers read. Arithmetic operators
are replaced by arithmetic ones alone, and logical ones by logical ones: ``a << b`` of two floats
dies wherever it is run, and would flatter. Mutants that do not compile, that leave the syntax tree
as it is, or that change a number by less than `LEAST_CHANGE` of itself do not count either.

Equivalent mutants are listed in ``mutation_equivalents.json`` with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
EQUIVALENTS = Path(__file__).with_name("mutation_equivalents.json")
CORE = (
    "catalogue",
    "inference",
    "io",
    "labels",
    "lsf",
    "measure",
    "precision",
    "preprocess",
    "simulate",
    "spectra",
    "training",
    "wavelengths",
    "workflows",
)
LEAST_LIMIT_S = 150
"""Processor time that one mutant's tests have at least."""
WAITING = 3
"""Time on the clock for those that wait for ever, in units of the limit of processor time."""
UNKNOWN_S = 8.0
"""Taken for the time of a test file that has not been run to its end yet."""
LEAST_CHANGE = 1e-5
"""Relative: float32 is what the package computes in, and tests cannot ask for more."""

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
_LOGICAL = ("BitOr", "BitAnd", "BitXor")
_SPEED_ONLY = ("jit", "cache", "overload", "override", "runtime_checkable")


@dataclass
class Mutant:
    """One change, and what became of it; seconds are those of its tests."""

    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    outcome: str = "pending"
    by: str = ""
    seconds: float = 0.0

    @property
    def room(self) -> str:
        return self.module.split("/")[1].removesuffix(".py")

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by when other lines of its module have moved."""
        return self.module, self.before, self.after


# What can be changed ---------------------------------------------------------------------------


@cache
def operators() -> dict[str, Any]:
    """Cosmic Ray's operators but those whose mutants cannot run on any values of their kind."""
    from cosmic_ray.plugins import get_operator, operator_names

    chosen = {}
    for full in operator_names():
        name = full.partition("/")[2]
        if name.startswith("ReplaceBinaryOperator_"):
            _, old, new = name.split("_")
            if not any(old in group and new in group for group in (_ARITHMETIC, _LOGICAL)):
                continue
        if name.startswith("ReplaceComparisonOperator_"):
            _, old, new = name.split("_")
            if ("Is" in old) != ("Is" in new):
                continue
        if name in ("VariableReplacer", "VariableInserter"):  # want to be told of variables
            continue
        chosen[name] = get_operator(full)()
    return chosen


def find_mutants(path: Path) -> list[tuple[int, str, int]]:
    """(line, operator, occurrence) of every change of a module that would be one of behaviour."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = path.read_text()
    closed = list(_closed_spans(ast.parse(source)))
    decorators = [span for span, kind in closed if kind == "decorator"]
    slow = [span for span, kind in closed if kind == "speed"]
    others = [span for span, kind in closed if kind == "text"]
    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name, operator in operators().items():
        occurrence = -1
        for node in nodes:
            for start, _ in operator.mutation_positions(node):
                occurrence += 1
                barred = slow if name == "RemoveDecorator" else decorators
                if not any(a <= start < b for a, b in barred + others):
                    found.append((start[0], name, occurrence))
    return found


_Span = tuple[tuple[int, int], tuple[int, int]]


def _closed_spans(tree: ast.AST) -> Iterator[tuple[_Span, str]]:
    """Where no mutants are made, and why: see the module's docstring."""
    for node in ast.walk(tree):
        texts: list[ast.AST | None] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            texts.append(node.returns)
            if node.name in ("__repr__", "__str__"):
                texts.append(node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for decorator in node.decorator_list:
                (line, column), end = _span(decorator)
                whole = (line, column - 1), end  # the @ as well
                yield whole, "decorator"
                if any(word in ast.unparse(decorator) for word in _SPEED_ONLY):
                    yield whole, "speed"
        if isinstance(node, ast.arg | ast.AnnAssign):
            texts.append(node.annotation)
        if isinstance(node, ast.JoinedStr):
            parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
            if any(" " in part for part in parts):
                texts.append(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "zip":
            texts += [word.value for word in node.keywords if word.arg == "strict"]
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            texts.append(node)
        if isinstance(node, ast.Assign) and _is_type_alias(node):
            texts.append(node)
        for text in texts:
            if text is not None:
                yield _span(text), "text"


def _span(node: Any) -> _Span:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _is_type_alias(node: ast.Assign) -> bool:
    """``Name = A | B | None``: logical operators between names of types alone."""
    name, value = node.targets[0], node.value
    if not (isinstance(name, ast.Name) and name.id.lstrip("_")[:1].isupper()):
        return False
    if name.id.isupper() or not isinstance(value, ast.BinOp):
        return False
    kinds = (ast.BinOp, ast.BitOr, ast.Name, ast.Attribute, ast.Subscript, ast.Constant, ast.Tuple)
    return all(isinstance(part, (*kinds, ast.Load, ast.List)) for part in ast.walk(value))


def mutate(source: str, operator: str, occurrence: int) -> str | None:
    """The changed module, or None where the change is none or does not compile."""
    from cosmic_ray.mutating import mutate_code

    changed = mutate_code(source, operators()[operator], occurrence)
    if changed is None:
        return None
    try:
        tree = ast.parse(changed)
        compile(changed, "mutant", "exec")
    except (SyntaxError, ValueError):
        return None
    old = ast.parse(source)
    if ast.dump(tree) == ast.dump(old):
        return None
    if operator == "NumberReplacer" and _too_little(old, tree):
        return None
    if operator.startswith("ReplaceBinaryOperator") and _count(old) == _count(tree):
        return None  # the star between arguments
    return changed


def _count(tree: ast.AST) -> Counter[type]:
    return Counter(type(node) for node in ast.walk(tree) if isinstance(node, ast.operator))


def _too_little(old: ast.AST, new: ast.AST) -> bool:
    numbers = [
        [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and _is_number(n.value)]
        for tree in (old, new)
    ]
    changed = [(a, b) for a, b in zip(*numbers, strict=True) if a != b]
    return bool(changed) and all(abs(a - b) < LEAST_CHANGE * abs(a) for a, b in changed)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex) and not isinstance(value, bool)


def draw(rooms: tuple[str, ...], n: int, seed: int) -> list[Mutant]:
    """A sample: each room has its share by lines (at least one), each line the same chance."""
    rng = random.Random(seed)
    package = REPOSITORY / "jaxmdwarf"
    sizes: dict[str, dict[Path, int]] = {}
    for room in rooms:
        paths = [package / f"{room}.py"] if (package / f"{room}.py").exists() else []
        paths += sorted((package / room).rglob("*.py"))
        sizes[room] = {path: sum(map(bool, path.read_text().split("\n"))) for path in paths}
    total = sum(sum(lines.values()) for lines in sizes.values())
    sites = cache(find_mutants)
    known = {tuple(entry["mutant"]) for entry in json.loads(EQUIVALENTS.read_text())}
    mutants: list[Mutant] = []
    for lines in sizes.values():
        wanted = max(1, round(n * sum(lines.values()) / total))
        tried: set[tuple[Path, int]] = set()
        while wanted and any(lines.values()):
            (path,) = rng.choices(list(lines), list(lines.values()))
            places = sorted({(path, where) for where, _, _ in sites(path)} - tried)
            if not places:
                lines[path] = 0
                continue
            place = rng.choice(places)
            tried.add(place)
            mutant = _make_mutant(*place, rng.choice([s for s in sites(path) if s[0] == place[1]]))
            if mutant is not None and mutant.key not in known:
                mutants.append(mutant)
                wanted -= 1
    return rng.sample(mutants, len(mutants))


def _make_mutant(path: Path, line: int, site: tuple[int, str, int]) -> Mutant | None:
    _, operator, occurrence = site
    source = path.read_text()
    changed = mutate(source, operator, occurrence)
    if changed is None:
        return None
    module = path.relative_to(REPOSITORY).as_posix()
    return Mutant(module, line, operator, occurrence, *_changed_lines(source, changed))


def _changed_lines(old: str, new: str) -> tuple[str, str]:
    rows = [row for row in difflib.ndiff(old.split("\n"), new.split("\n")) if row[0] in "+-"]
    sides = ["\n".join(row[2:].strip() for row in rows if row[0] == side) for side in "-+"]
    return sides[0], sides[1]


# Which tests should notice ---------------------------------------------------------------------


def _module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


@cache
def _imports(path: Path) -> frozenset[tuple[str, str]]:
    """(module, name) of what a file imports, at any depth, absolute."""
    found = set()
    package = ".".join(path.relative_to(REPOSITORY).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")
                base = ".".join([*parent[: len(parent) - node.level + 1], *([base] * bool(base))])
            found |= {(base, alias.name) for alias in node.names}
    return frozenset(found)


@cache
def _packages() -> dict[str, Path]:
    return {_module_name(path): path for path in (REPOSITORY / "jaxmdwarf").rglob("*.py")}


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Modules whose objects a file imports; names that a package hands on are followed."""
    modules = set()
    for base, name in _imports(path):
        seen = set()
        while base in _packages() and base not in seen:
            seen.add(base)
            if f"{base}.{name}" in _packages():
                base = f"{base}.{name}"
                break
            handed_on = [b for b, n in _imports(_packages()[base]) if n == name and name]
            if not handed_on or _packages()[base].name != "__init__.py":
                break
            base = handed_on[0]
        if base in _packages():
            modules.add(base)
    return frozenset(modules)


@cache
def tests_of(module: str) -> tuple[tuple[int, str], ...]:
    """Test files that should notice a change of a module, each with how far it stands from it."""
    path = REPOSITORY / module
    name, room = _module_name(path), path.relative_to(REPOSITORY).parts[1]
    neighbours = {
        other
        for other, where in _packages().items()
        if where.relative_to(REPOSITORY).parts[1] == room and name in imported_modules(where)
    }
    folder = "/".join(("tests", *path.relative_to(REPOSITORY / "jaxmdwarf").parts[:-1]))
    stem = path.parent.name if path.stem == "__init__" else path.stem
    distances = {}
    for test in _test_files():
        where = test.relative_to(REPOSITORY)
        near = where.parts[1] in (room, f"test_{stem}.py")
        imported = imported_modules(test)
        if near and test.stem == f"test_{stem}":
            distances[where.as_posix()] = 0
        elif name in imported:
            distances[where.as_posix()] = 1 if near else 2
        elif near and (neighbours & imported or where.parent.as_posix() == folder):
            distances[where.as_posix()] = 3
    if ">>> " in path.read_text():
        distances[module] = 0
    reached = {name}
    while not distances:  # no test near it: the nearest by way of what imports it
        more = {m for m, where in _packages().items() if reached & imported_modules(where)}
        if more <= reached:
            break
        reached |= more
        reaching = [test for test in _test_files() if reached & imported_modules(test)]
        distances = {test.relative_to(REPOSITORY).as_posix(): 4 for test in reaching}
    return tuple(sorted((distance, test) for test, distance in distances.items()))


@cache
def _test_files() -> tuple[Path, ...]:
    return tuple(sorted((REPOSITORY / "tests").rglob("test_*.py")))


def choose_tests(module: str, durations: dict[str, float], most_s: float) -> list[str]:
    """Nearest and quickest first, until the time is spent; one file at least."""
    chosen: list[str] = []
    spent = 0.0
    for _, seconds, test in sorted(
        (distance, durations.get(test, 1.0 if test == module else UNKNOWN_S), test)
        for distance, test in tests_of(module)
    ):
        if not chosen or spent + seconds <= most_s:
            chosen.append(test)
            spent += seconds
    return chosen


# Running them ----------------------------------------------------------------------------------


class Recorder:
    """Plugin of pytest: which test failed first, and what each file took of the processor."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self._before = sum(os.times()[:4])

    def pytest_runtest_logreport(self, report: Any) -> None:
        now = sum(os.times()[:4])  # that of children as well
        self.seconds[report.nodeid.partition("::")[0]] += now - self._before
        self._before = now
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def copy_tree(target: Path) -> None:
    """What version control knows, changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)


def prepare_process() -> None:
    """Import what the package imports, once: children that are forked begin with it."""
    os.environ.pop("JAXMDWARF_TEST_DATA", None)
    cached = Path(tempfile.gettempdir()) / "jaxmdwarf-mutation-programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cached))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    import astropy.coordinates, astropy.io.fits, astropy.table  # noqa: E401, F401, I001
    import beartype, equinox, flax, hypothesis, jaxopt, jaxtyping, optax, optimistix  # noqa: E401, F401
    import matplotlib.pyplot, pandas, pyarrow.parquet, pytest, rich, scipy.stats, tyro  # noqa: E401, F401
    import sklearn.neighbors  # noqa: F401


def find_limit(most_s: float) -> int:
    """Processor time of one mutant's tests: twice what they should take, for none dies of it."""
    return max(LEAST_LIMIT_S, round(2 * most_s))


def start(tree: Path, arguments: list[str], report: Path, *, limit_s: int) -> int:
    """Fork a process that runs pytest in a copy of the tree; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
        with report.with_suffix(".log").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.chdir(tree)
        here = {"", str(REPOSITORY)}
        sys.path = [str(tree), *(entry for entry in sys.path if entry not in here)]
        os.environ["PYTHONPATH"] = str(tree)
        for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "jaxmdwarf")]:
            del sys.modules[name]
        sys.dont_write_bytecode = False
        import pytest

        recorder = Recorder()
        options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", f"{tree}-tmp"]
        code = int(pytest.main([*options, *arguments], plugins=[recorder]))
        package = sys.modules.get("jaxmdwarf")
        origin = tree if package is None else Path(str(package.__file__))
        told = {
            "code": code,
            "failed": recorder.failed,
            "seconds": recorder.seconds,
            "there": origin.is_relative_to(tree),
        }
        report.write_text(json.dumps(told))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(0)


@dataclass
class Job:
    """A mutant whose tests run."""

    mutant: Mutant
    tree: Path
    report: Path
    process: int
    began: float
    original: str


class Runner:
    """Mutants in copies of the tree, so many at once."""

    def __init__(self, durations: dict[str, float], most_s: float, work: Path, jobs: int) -> None:
        self.durations = durations
        self.most_s = most_s
        self.limit_s = find_limit(most_s)
        self.trees = [work / f"tree{number}" for number in range(jobs)]
        for tree in self.trees:
            copy_tree(tree)
        self.running: list[Job] = []
        self.date = int(time.time())

    def launch(self, mutant: Mutant) -> None:
        tree = self.trees.pop()
        path = tree / mutant.module
        original = path.read_text()
        changed = mutate(original, mutant.operator, mutant.occurrence)
        if changed is None or _changed_lines(original, changed) != (mutant.before, mutant.after):
            self.trees.append(tree)
            mutant.outcome = "moved"
            return
        tests = choose_tests(mutant.module, self.durations, self.most_s)
        if not tests:
            self.trees.append(tree)
            mutant.outcome = "survived"
            mutant.by = "no test imports the module"
            return
        self.rewrite(path, changed)
        report = tree.with_suffix(".json")
        report.unlink(missing_ok=True)
        process = start(tree, tests, report, limit_s=self.limit_s)
        self.running.append(Job(mutant, tree, report, process, time.monotonic(), original))

    def rewrite(self, path: Path, text: str) -> None:
        """Change a module; compiled ones go by whole seconds, so each change gets its own."""
        self.date += 1
        path.write_text(text)
        os.utime(path, (self.date, self.date))

    def collect(self) -> list[Mutant]:
        """Those that have ended or run too long."""
        ended = []
        for job in list(self.running):
            done, status = os.waitpid(job.process, os.WNOHANG)
            late = time.monotonic() - job.began > WAITING * self.limit_s
            if not done and not late:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process, signal.SIGKILL)
            if not done:
                os.waitpid(job.process, 0)
            spent = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
            self._judge(job, in_time=bool(done) and not spent)
            self.rewrite(job.tree / job.mutant.module, job.original)
            self.running.remove(job)
            self.trees.append(job.tree)
            ended.append(job.mutant)
        return ended

    def stop(self) -> None:
        """End what runs, so that nothing outlives an interrupted command."""
        for job in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.process, signal.SIGKILL)

    def _judge(self, job: Job, *, in_time: bool) -> None:
        mutant = job.mutant
        mutant.seconds = round(time.monotonic() - job.began, 1)
        if not in_time:
            mutant.outcome, mutant.by = "timeout", f"more than {self.limit_s} s"
            return
        if not job.report.exists():  # the interpreter itself ended
            mutant.outcome, mutant.by = "killed", "the tests ended without a report"
            return
        told = json.loads(job.report.read_text())
        if not told["there"]:
            raise SystemExit(f"jaxmdwarf was not imported from {job.tree}: nothing was tested")
        if told["code"] == 0:
            mutant.outcome, mutant.by = "survived", ""
            self.durations.update({test: round(s, 2) for test, s in told["seconds"].items()})
        elif told["code"] in (1, 2) and told["failed"]:
            mutant.outcome, mutant.by = "killed", told["failed"][0]
        else:
            log = job.report.with_suffix(".log").read_text()
            if "ImportError while loading conftest" not in log and "Error" not in log:
                raise SystemExit(f"pytest ended with {told['code']}:\n{log}")
            mutant.outcome, mutant.by = "killed", "the tests could not be collected"


def take_back_false_kills(mutants: list[Mutant], work: Path, checked: set[str]) -> list[str]:
    """Run the tests that killed on the code as it stands; kills by those that fail do not count."""
    suspects = sorted({m.by for m in mutants if m.outcome == "killed" and "::" in m.by} - checked)
    failing: list[str] = []
    tree = work / "unchanged"
    copy_tree(tree)
    for first in range(0, len(suspects), _TOGETHER):
        some = suspects[first : first + _TOGETHER]
        report = tree.with_suffix(".json")
        report.unlink(missing_ok=True)
        limit_s = LEAST_LIMIT_S * len(some)
        os.waitpid(start(tree, ["--maxfail=1000", *some], report, limit_s=limit_s), 0)
        if not report.exists():
            raise SystemExit(f"no report: {report.with_suffix('.log').read_text()}")
        failing += json.loads(report.read_text())["failed"]
        checked |= set(some) - set(failing)
    for mutant in mutants:
        if mutant.by in failing:
            mutant.outcome, mutant.by = "pending", ""
    return failing


_TOGETHER = 8
"""Tests in one process."""


# What came out ---------------------------------------------------------------------------------


def score(mutants: list[Mutant]) -> str:
    """Killed of judged, by room; equivalent ones apart."""
    known = {tuple(entry["mutant"]) for entry in json.loads(EQUIVALENTS.read_text())}
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        outcome = mutant.outcome
        if outcome == "survived" and mutant.key in known:
            outcome = "equivalent"
        for room in (mutant.room, "all"):
            table[room]["killed" if outcome == "timeout" else outcome] += 1
    lines = []
    for room in [*sorted(set(table) - {"all"}), "all"]:
        counts = table[room]
        judged = counts["killed"] + counts["survived"]
        share = f"{counts['killed'] / judged:.0%}" if judged else "-"
        rest = ", ".join(f"{n} {what}" for what, n in counts.items() if what in _OTHERS)
        lines.append(f"{room:12} {counts['killed']:4d} of {judged:4d} killed  {share:>5}  {rest}")
    return "\n".join(line.rstrip() for line in lines)


_OTHERS = ("equivalent", "pending", "moved")


def read_results(path: Path) -> tuple[dict[str, Any], list[Mutant]]:
    told = json.loads(path.read_text())
    return told["about"], [Mutant(**entry) for entry in told["mutants"]]


def write_results(path: Path, about: dict[str, Any], mutants: list[Mutant]) -> None:
    """One line for each mutant, so that changes are read easily."""
    text = io.StringIO()
    text.write('{"about": ' + json.dumps(about) + ',\n "mutants": [\n  ')
    text.write(",\n  ".join(json.dumps(asdict(mutant)) for mutant in mutants))
    text.write("\n ]}\n")
    partial = path.with_suffix(".new")
    partial.write_text(text.getvalue())
    partial.replace(path)


def run(mutants: list[Mutant], runner: Runner, minutes: float, save: Callable[[], None]) -> None:
    """Until all are judged or the time is over; what has begun is ended."""
    todo = [mutant for mutant in mutants if mutant.outcome == "pending"]
    began = time.monotonic()
    while todo or runner.running:
        in_time = time.monotonic() - began < 60 * minutes
        if not in_time and not runner.running:
            break
        while todo and in_time and runner.trees:
            runner.launch(todo.pop(0))
        for mutant in runner.collect():
            print(f"{mutant.outcome:9} {mutant.seconds:6.1f} s  {mutant.module}:{mutant.line}"
                  f"  {mutant.after!r}  {mutant.by}", flush=True)  # fmt: skip
            save()
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--rooms", nargs="+", default=CORE)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--test-seconds", type=float, default=40.0, help="for one mutant")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", nargs="+", default=(), help="outcomes to run again: survived")
    parser.add_argument("--score", action="store_true", help="print the score alone")
    options = parser.parse_args()
    if options.out.exists():
        about, mutants = read_results(options.out)
    else:
        mutants = draw(tuple(options.rooms), options.n, options.seed)
        about = {"seed": options.seed, "n": options.n, "rooms": list(options.rooms)}
    if not options.score:
        _run_all(options, about, mutants)
    print(score(mutants))


def _run_all(options: argparse.Namespace, about: dict[str, Any], mutants: list[Mutant]) -> None:
    for mutant in mutants:
        if mutant.outcome in options.again:
            mutant.outcome, mutant.by = "pending", ""
    durations: dict[str, float] = {}
    timings = Path(tempfile.gettempdir()) / "jaxmdwarf-mutation-seconds.json"
    if timings.exists():
        durations = json.loads(timings.read_text())

    def save() -> None:
        write_results(options.out, about, mutants)
        timings.write_text(json.dumps(durations))

    save()
    prepare_process()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="jaxmdwarf-mutants-") as folder:
        runner = Runner(durations, options.test_seconds, Path(folder), options.jobs)
        try:
            run(mutants, runner, options.minutes, save)
        finally:
            runner.stop()
        if all(mutant.outcome != "pending" for mutant in mutants):
            checked = set(about.get("tests_that_pass", ()))
            failing = take_back_false_kills(mutants, Path(folder), checked)
            print("\n".join(f"fails on the code as it stands: {test}" for test in failing))
            about["tests_that_pass"] = sorted(checked)
        save()


if __name__ == "__main__":
    main()
