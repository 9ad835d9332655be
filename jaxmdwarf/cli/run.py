"""``jaxmdwarf run``: an experiment by name, whose whole configuration is options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxmdwarf.cli.experiments import find_experiments, load_experiment
from jaxmdwarf.cli.options import SHOW_ALL, TerminalConfig, TerminalOptions
from jaxmdwarf.cli.parsing import HelpShown, parse

if TYPE_CHECKING:
    from jaxmdwarf.cli.console import Terminal

_HELP = """usage: jaxmdwarf run EXPERIMENT [--field VALUE] [--section.field VALUE]

Run an experiment: a frozen dataclass that holds its whole configuration, any
part of which can be given another value.

An experiment is a name of this list, or a file of your own and the name of a
dataclass (or of an instance) in it: path/to/file.py:CONFIG. It needs a method
run(progress) that returns numbers; they are printed as JSON. The experiments in
the folder experiments/ of the source tree are known where that tree is: beside
the installed package (pip install -e), or in the present folder.

experiments:
{listed}

'jaxmdwarf run EXPERIMENT --help' lists its options.
Example: jaxmdwarf run quickstart --out first --pipeline.n-spectra 300"""


@dataclasses.dataclass(frozen=True)
class Command:
    """An experiment and how it is shown.

    Parameters
    ----------
    experiment : dataclass
        With a method ``run(progress)``.
    terminal : TerminalConfig
    """

    experiment: Any
    terminal: TerminalConfig

    def run(self, terminal: Terminal) -> dict[str, Any]:
        """Run the experiment; what it found."""
        return dict(self.experiment.run(terminal))


def parse_command(arguments: Sequence[str]) -> Command:
    """The experiment that the arguments name, with their overrides.

    Raises
    ------
    UsageError
        If there is no such experiment or option.
    HelpShown
    """
    known = find_experiments()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known)) + 4
        listed = "\n".join(f"  {name:<{width - 2}}{entry.line}" for name, entry in known.items())
        print(_HELP.format(listed=listed))
        raise HelpShown
    name, *rest = arguments
    default = load_experiment(name, known)
    # Made here, for the options are those of whatever class the experiment is of.
    both = dataclasses.make_dataclass(
        "Experiment",
        [
            (
                "experiment",
                Annotated[type(default), tyro.conf.arg(name="")],
                dataclasses.field(default=default),
            ),
            ("terminal", TerminalOptions, dataclasses.field(default=SHOW_ALL)),
        ],
        frozen=True,
    )
    description = (type(default).__doc__ or "").split("Parameters\n")[0]
    parsed = parse(both, f"jaxmdwarf run {name}", rest, description=description)
    return Command(parsed.experiment, parsed.terminal)
