"""``python -m benchmarks.peers``: the methods of the paper's section 5.3 beside the package.

Simulates surveys, trains every method on what it would have in reality, judges all on the same
stars, keeps the numbers in benchmarks/results/peers/peers.json and puts the tables into
docs/peers.md, a short one into the README. Surveys, models and answers stay in --out: the same
command goes on from there. pPXF comes with ``pip install -e ".[peers]"``.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.methods import PEERS
from benchmarks.peers.page import PAGE, README, put_tables, render_summary, render_tables
from benchmarks.peers.run import RESULT, compare_peers
from benchmarks.peers.survey import CaseConfig
from jaxmdwarf.errors import JaxmdwarfError
from jaxmdwarf.io.json_files import write_json


class _Lines:
    """One line a stage."""

    @contextmanager
    def stage(self, title, total=None, *, unit="", done=0):
        print(title, flush=True)
        yield self

    def advance(self, n=1.0, *, note=""):
        pass

    def say(self, text):
        print(text, flush=True)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    default = CaseConfig()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/peers"), help="folder to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 32, 33])
    parser.add_argument(
        "--n", type=int, default=default.n_spectra, help="spectra of a survey (%(default)s)"
    )
    parser.add_argument(
        "--train", type=int, default=default.n_train, help="of which to learn from (%(default)s)"
    )
    parser.add_argument(
        "--methods", nargs="+", default=[], help=f"of {', '.join(PEERS)}; all by default"
    )
    parser.add_argument(
        "--cyclestar-steps",
        type=int,
        default=0,
        help="also train the paper's networks, for this many batches of 8",
    )
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file (%(default)s)")
    parser.add_argument(
        "--render", action="store_true", help="only put the tables of the JSON file into the page"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run and render; the exit status."""
    options = parse_options(arguments)
    if not options.render:
        result = compare_peers(
            options.out,
            options.seeds,
            CaseConfig(n_spectra=options.n, n_train=options.train),
            methods=options.methods,
            cyclestar_steps=options.cyclestar_steps,
            progress=_Lines(),
        )
        options.result.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.result, result, indent=None)
    result = json.loads(options.result.read_text(encoding="utf-8"))
    tables = render_tables(result)
    if options.result == RESULT and PAGE.is_file():
        for page, made in ((PAGE, tables), (README, render_summary(result))):
            text = page.read_text(encoding="utf-8")
            page.write_text(put_tables(text, made), encoding="utf-8")
    else:
        print(tables)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JaxmdwarfError as error:
        sys.exit(str(error))
