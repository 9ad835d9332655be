"""Run an experiment by name; its fields are options."""

from __future__ import annotations

import json
import sys

import tyro

from experiments import EXPERIMENTS
from jaxmdwarf.cli.console import Terminal
from jaxmdwarf.errors import JaxmdwarfError


def main(arguments: list[str]) -> int:
    """Run ``NAME [--field VALUE]``; returns the exit code."""
    if not arguments or arguments[0] not in EXPERIMENTS:
        known = "\n".join(f"  {name}: {_title(kind)}" for name, kind in EXPERIMENTS.items())
        print(f"usage: python -m experiments NAME [options]\n{known}", file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    experiment = tyro.cli(
        EXPERIMENTS[arguments[0]], prog=f"experiments {arguments[0]}", args=arguments[1:]
    )
    try:
        outcome = experiment.run(Terminal())
    except JaxmdwarfError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1
    print(json.dumps(outcome, indent=2))
    return 0 if outcome.get("passed", True) else 1


def _title(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
