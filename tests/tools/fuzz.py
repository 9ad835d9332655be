"""Damaged inputs of every kind against all that reads them: a reason, soon, in little room.

    python -m tests.tools.fuzz --n 100000 --seed 1 --kinds spectra models --out result.json

A corpus of small whole files is made on the spot, and takes in real spectra where
JAXMDWARF_TEST_DATA names a folder of them. Every input is one of these with something wrong, made
from the seed and its number alone, so that ``--only KIND NUMBER`` makes it again. A finding is an
error that is not the package's own, more than `SLOW_S` of processor time or `HANG_S` of any, or
more memory than `ROOM_BYTES`;
and spectra that pass although wavelengths or flux have changed are counted.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import json
import lzma
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from jaxmdwarf.errors import JaxmdwarfError, RejectedInput
from jaxmdwarf.io.grids import ModelGrid, read_grid, write_grid
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.inputs import expand_inputs
from jaxmdwarf.io.isochrones import read_isochrones
from jaxmdwarf.io.limits import count_memory
from jaxmdwarf.io.models import _hash_description, load_model, save_model
from jaxmdwarf.io.references import read_references
from jaxmdwarf.io.rejects import Reject, locate_error
from jaxmdwarf.io.spectra.readers import read_records
from jaxmdwarf.io.spectra.records import Requirements, SpectrumRecord
from jaxmdwarf.io.tables import read_tables, write_table
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.measuring import MeasureTask
from tests.io.conftest import LAYOUTS, write
from tests.io.grids.conftest import btsettl_fits_hdus, spec7_bytes, svo_bytes, write_aces
from tests.io.spectra.conftest import write_desi, write_mrs, write_mwm

SLOW_S = 5.0
HANG_S = 20
ROOM_BYTES = 1024**3
"""Memory beyond what the process had, for inputs of at most a few hundred kB."""

N_REAL = 12
"""Real files of each folder that join the corpus."""

NUMBERS = (
    "2147483647", "-2147483648", "99999999999999999999", "-1", "0", "1", "3", "8", "-32", "32",
    "1.5", "1E400", "-1E400", "1E30", "NaN", "T", "F", "''", "'abc'", "'3908J   '", "'PE(9)'",
)  # fmt: skip
CELLS = ("nan", "", "-9999", "1e400", "abc", "-1", "99999999999999999999", "=1+1", "\x1b[2J", '"')
WORDS = (b"\0", b"\xff\xfe", b"\r", b"\n", b"#", b'"', b"&amp;", b"<", b"]]>", b"'", b"\\", b"{")


@dataclass
class Findings:
    """What became of the inputs of a kind."""

    n: int = 0
    refused: int = 0
    passed: int = 0
    changed: Counter = field(default_factory=Counter)
    foreign: Counter = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    slow: list[tuple[int, float]] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def n_bad(self) -> int:
        """Inputs that are findings."""
        return sum(self.foreign.values()) + len(self.slow)


Case = tuple[str, bytes, Callable[[str], Any]]
"""Name of a whole file, its bytes, what reads it."""


def damage(content: bytes, rng: random.Random) -> bytes:
    """A copy of the bytes with something wrong."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _damage_once(data, rng)
    if rng.random() < 0.1:
        pack = rng.choice((gzip.compress, bz2.compress, lambda one: lzma.compress(one, preset=0)))
        return pack(bytes(data))[: rng.choice((None, None, -1, -10))]
    return bytes(data)


def _damage_once(data: bytearray, rng: random.Random) -> None:
    if not data:
        data += b"\0"
    kind, at = rng.random(), rng.randrange(len(data))
    cards = [k for k in range(0, min(len(data), 30_000), 80) if data[k + 8 : k + 10] == b"= "]
    if kind < 0.45 and cards:
        place = rng.choice(cards)
        data[place + 10 : place + 80] = rng.choice(NUMBERS).rjust(20).ljust(70).encode()
    elif kind < 0.55 and len(cards) > 1:
        one, other = rng.sample(cards, 2)
        data[one : one + 80] = data[other : other + 80]
    elif kind < 0.7:
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.78:
        del data[at:]
    elif kind < 0.84:
        length = rng.randint(1, 5_000)
        data[at : at + length] = bytes(min(length, len(data) - at))
    elif kind < 0.88:
        del data[at : at + rng.choice((1, 2, 4, 80, 2880, rng.randint(1, 9_000)))]
    elif kind < 0.92:
        data[at:at] = data[at : at + rng.choice((1, 80, 2880))]
    elif kind < 0.95:
        stop = min(len(data), at + 4 * rng.randint(1, 5_000))
        part = bytes(data[at : at + (stop - at) // 4 * 4])
        data[at : at + len(part)] = np.frombuffer(part, "<u4").byteswap().tobytes()
    else:
        data[at:at] = rng.choice(WORDS) * rng.choice((1, 1, 3, 1000))


def damage_text(content: bytes, rng: random.Random) -> bytes:
    """A copy of a text with strange cells, lines or bytes."""
    if rng.random() < 0.4:
        return damage(content, rng)
    lines = content.split(b"\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        cells = lines[at].split(rng.choice((b",", b" ", b"\t")))
        cells[rng.randrange(len(cells))] = rng.choice(CELLS).encode()
        lines[at] = rng.choice((b",".join(cells), b" ".join(cells), lines[at] * 2, b""))
    return b"\n".join(lines)


# Kinds: a corpus, and what reads each of its files.


def make_spectra(folder: Path) -> list[Case]:
    """Every layout of every survey, and real files."""
    arms = {"R": (6000.0, 6400.0), "Z": (6380.0, 6900.0)}
    with contextlib.suppress(ImportError):
        import specutils  # noqa: F401  # what no other reader knows goes there; seconds once
    paths = [write(folder / f"{layout}.fits", layout) for layout in LAYOUTS]
    paths += [
        write_desi(folder / "desi.fits", 2, arms=arms),
        write_mwm(folder / "star.fits", (1, 0, 1, 0)),
        write_mwm(folder / "visits.fits", (2, 0, 0, 0), visits=True),
        write_mrs(folder / "mrs.fits"),
    ]
    cases = [(path.name, path.read_bytes()) for path in paths]
    real = os.environ.get("JAXMDWARF_TEST_DATA")
    for pattern in ("lamost/**/*.fits.gz", "lamost_plate/**/*.fits.gz", "sdss*.fits.gz"):
        for path in sorted(Path(real).glob(pattern))[:N_REAL] if real else ():
            cases.append((path.name.removesuffix(".gz"), gzip.decompress(path.read_bytes())))
    return [(name, content, _SpectrumTarget(content, name)) for name, content in cases]


class _SpectrumTarget:
    """Read and measure a file, as workers do; what passes is sound, and compared to the whole."""

    def __init__(self, content: bytes, name: str) -> None:
        self._task = MeasureTask(Requirements())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._whole = [
                (one.wave_aa, one.flux, one.meta["layout"])
                for one in read_records(path)
                if isinstance(one, SpectrumRecord)
            ]

    def __call__(self, path: str) -> str:
        rows = self._task(path)
        n_passed = 0
        for row in rows:
            if isinstance(row, Reject):
                assert row.reason
                assert row.remedy
                assert "\n" not in row.reason + row.remedy
            else:
                n_passed += 1
        if not n_passed:
            raise RejectedInput("no spectrum of the file is usable.", "none.")
        found = [one for one in read_records(path) if isinstance(one, SpectrumRecord)]
        for one in found:
            assert np.isfinite(one.flux).all()
            assert (one.ivar >= 0).all()
        if len(found) != len(self._whole):
            return ""
        for one, (wave, flux, _) in zip(found, self._whole, strict=True):
            same = one.flux.shape == flux.shape and np.array_equal(one.flux, flux)
            if not (same and np.allclose(one.wave_aa, wave, rtol=1e-7)):
                return f"{one.meta['layout']}"
        return ""


def make_models(folder: Path) -> list[Case]:
    """A model file of every format."""
    wave = np.arange(6900.0, 7100.0, 0.5)
    flux = np.full(wave.size, 3e5)
    name = "lte030.0-5.0-0.5a+0.2.BT-Settl.spec.7"
    btsettl_fits_hdus(wave, flux).writeto(folder / "a.fits")
    aces = write_aces(folder / "aces", wave, flux)
    texts = [spec7_bytes(wave, flux), svo_bytes(wave, flux), (folder / "a.fits").read_bytes()]
    beside = next(path for path in aces.parent.iterdir() if "WAVE" in path.name)

    def read_beside(path: str) -> str:
        with contextlib.suppress(FileExistsError):
            os.link(beside, Path(path).with_name(beside.name))
        return _read_model(path)

    return [(name, text, _read_model) for text in texts] + [
        (aces.name, aces.read_bytes(), read_beside)
    ]


def _read_model(path: str) -> str:
    native = read_native(path)
    assert np.isfinite(native.flux).all()
    assert (np.diff(native.wave_aa) > 0).all()
    return ""


def make_grids(folder: Path) -> list[Case]:
    """A grid table."""
    rng, space = np.random.default_rng(0), LabelSpace.mdwarf()
    pixels = PixelGrid.linear(6000.0, 6050.0, 1.0)
    labels = rng.uniform(space.lower, space.upper, (6, 4))
    flux = rng.uniform(1e4, 1e7, (6, pixels.n_pix)).astype(np.float32)
    grid = ModelGrid(labels, space, flux, pixels, 1800.0, "simulated", tuple("abcdef"))
    write_grid(grid, folder / "grid.parquet")
    return [("grid.parquet", (folder / "grid.parquet").read_bytes(), _read_grid)]


def _read_grid(path: str) -> str:
    assert np.isfinite(read_grid(path).flux).all()
    return ""


def make_tables(folder: Path) -> list[Case]:
    """A catalogue in every format, and a list of isochrones."""
    n = 12
    rng = np.random.default_rng(1)
    table = pd.DataFrame(
        {
            "ID": [f"J{k:04d}" for k in range(n)],
            "obsid": np.arange(n) + 10**8,
            "RA": rng.uniform(0, 360, n),
            "Dec": rng.uniform(-90, 90, n),
            "Teff": rng.uniform(3000, 4000, n),
            "M_H": rng.normal(0, 0.2, n),
            "flags": np.zeros(n, np.int32),
            "good": rng.random(n) > 0.5,
            "path": [f"night/{k}.fits" for k in range(n)],
        }
    )
    cases: list[Case] = []
    for extension in ("fits", "fits.gz", "parquet", "vot", "csv", "ecsv", "mrt"):
        name = f"T.{extension}"
        write_table(table, folder / name)
        cases.append((name, (folder / name).read_bytes(), _read_table))
    cases += [
        ("T.tsv", (folder / "T.csv").read_bytes().replace(b",", b"\t"), _read_table),
        ("T.csv.gz", gzip.compress((folder / "T.csv").read_bytes()), _read_table),
    ]
    head = "# Zini MH logAge Mini Mass logTe logg logL\n"
    rows = "".join(f"0.0152 0.0 9.7 {m} {m} {3.5 + m / 9:.4f} 4.9 -1.5\n" for m in (0.2, 0.3, 0.5))
    cases.append(("isochrones.dat", (head + rows).encode(), _read_isochrones))
    cases.append(("list.txt", b"a.fits\n# none\nb.fits\n", _read_list))
    return cases


def _read_table(path: str) -> str:
    read_tables(path)
    read_references(path)
    return ""


def _read_isochrones(path: str) -> str:
    assert all(np.isfinite(v).all() for k, v in read_isochrones(path).items() if k != "source")
    return ""


def _read_list(path: str) -> str:
    found = expand_inputs(f"@{path}")
    assert found.n_in > 0
    return ""


def make_directories(folder: Path) -> list[Case]:
    """The two files of a model directory; the other one is put beside, its hashes mended."""
    from tests.registries.conftest import make_corrected, make_payne

    cases: list[Case] = []
    for name, make in (("payne", make_payne), ("corrected", make_corrected)):
        whole = save_model(make(), folder / name)
        for part in ("model.json", "arrays.npz"):
            cases.append((part, (whole / part).read_bytes(), _DirectoryTarget(whole, part)))
    return cases


class _DirectoryTarget:
    def __init__(self, whole: Path, part: str) -> None:
        self._whole, self._part = whole, part

    def __call__(self, path: str) -> str:
        import hashlib

        folder = Path(path).parent
        other = {"model.json": "arrays.npz", "arrays.npz": "model.json"}[self._part]
        shutil.copy(self._whole / other, folder / other)
        # Somebody who means it mends the hashes.
        with contextlib.suppress(ValueError, RecursionError, AttributeError, KeyError, TypeError):
            about = json.loads((folder / "model.json").read_bytes())
            packed = (folder / "arrays.npz").read_bytes()
            about["arrays"]["sha256"] = hashlib.sha256(packed).hexdigest()
            about["sha256"] = _hash_description(about)
            (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
        load_model(folder)
        return ""


KINDS: dict[str, tuple[Callable[[Path], list[Case]], Callable[[bytes, random.Random], bytes]]] = {
    "spectra": (make_spectra, damage),
    "models": (make_models, damage_text),
    "grids": (make_grids, damage),
    "tables": (make_tables, damage_text),
    "directories": (make_directories, damage_text),
}


class Hang(BaseException):
    """Not an `Exception`: nobody is to catch it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """At most `HANG_S`, and `ROOM_BYTES` more memory."""

    def stop(number: int, frame: Any) -> None:
        raise Hang

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (count_memory() + ROOM_BYTES, most))
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def run_kind(
    kind: str, numbers: range, seed: int, folder: Path, *, until: float = float("inf")
) -> Findings:
    """Try the inputs of these numbers, as far as there is time until `until` (`time.monotonic`)."""
    make, spoil = KINDS[kind]
    corpus = folder / "corpus" / kind
    corpus.mkdir(parents=True)
    cases, found = make(corpus), Findings()
    place = folder / "try"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    # Whole files first: what they need is imported once, and is not the damaged ones' time.
    for name, content, target in cases:
        (place / name).write_bytes(content)
        with contextlib.suppress(JaxmdwarfError):
            target(str(place / name))
        _clear(place)
    for number in numbers:
        if time.monotonic() > until:
            break
        rng = random.Random(f"{kind} {seed} {number}")
        name, content, target = cases[rng.randrange(len(cases))]
        _clear(place)
        path = place / name
        path.write_bytes(spoil(content, rng))
        _try(found, number, target, path)
    return found


def _clear(folder: Path) -> None:
    """Empty a folder: to make one anew takes longer than to read most inputs."""
    for entry in os.scandir(folder):
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _try(found: Findings, number: int, target: Callable[[str], str], path: Path) -> None:
    found.n += 1
    began = time.process_time()  # other processes of the machine are no fault of the input
    try:
        with bounded():
            changed = target(str(path))
    except JaxmdwarfError as error:
        found.refused += 1
        if "\n" in str(error) or not error.remedy:
            _note(found, number, f"no reason on one line: {error!s:.80}")
    except (Exception, Hang) as error:
        _note(
            found,
            number,
            f"{path.name}: {type(error).__name__}: {error!s:.90}{locate_error(error)}",
        )
    else:
        found.passed += 1
        if changed:
            found.changed[changed] += 1
    seconds = time.process_time() - began
    found.slowest_s = max(found.slowest_s, seconds)
    if seconds > SLOW_S:
        found.slow.append((number, round(seconds, 1)))


def _note(found: Findings, number: int, what: str) -> None:
    found.foreign[what] += 1
    found.first.setdefault(what, number)


def main(argv: list[str] | None = None) -> int:
    """Run and report; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--n", type=int, default=1000, help="inputs of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--only", nargs=2, metavar=("KIND", "NUMBER"), help="make one input again")
    parser.add_argument("--out", type=Path, help="where the counts go, as JSON")
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    numbers, kinds = range(given.first, given.first + given.n), given.kinds
    if given.only:
        kinds, numbers = [given.only[0]], range(int(given.only[1]), int(given.only[1]) + 1)
    until = time.monotonic() + 60 * given.minutes
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for kind in kinds:
            found = run_kind(kind, numbers, given.seed, Path(name), until=until)
            if given.only:
                kept = shutil.copytree(Path(name) / "try", Path.cwd() / f"{kind}-{numbers[0]}")
                print(f"the input is in {kept}")
            report[kind] = {
                "seed": given.seed,
                "first": given.first,
                "n": found.n,
                "refused": found.refused,
                "passed": found.passed,
                "passed_changed": dict(found.changed),
                "foreign": dict(found.foreign),
                "number_of_first": found.first,
                "slower_than_5_s": found.slow,
                "slowest_s": round(found.slowest_s, 2),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
            print(json.dumps({kind: report[kind]}, indent=1), flush=True)
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(one["foreign"] or one["slower_than_5_s"] for one in report.values()))


if __name__ == "__main__":
    sys.exit(main())
