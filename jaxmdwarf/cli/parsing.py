"""Arguments to options: by tyro, whose complaints become one line with a remedy."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import shutil
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxmdwarf.errors import UsageError


class HelpShown(Exception):
    """The arguments asked for help, which has been printed."""


class Option(NamedTuple):
    """One option that a tree of dataclasses has.

    Parameters
    ----------
    name : str
        With the dashes: ``--matched.order``.
    kind : type
        What it takes.
    required : bool
    """

    name: str
    kind: Any
    required: bool


def parse(kind: type, prog: str, arguments: Sequence[str], *, description: str = "") -> Any:
    """Build an object of a dataclass from arguments.

    Parameters
    ----------
    kind : type
        A dataclass; its fields are the options.
    prog : str
        What was typed before the arguments, for messages.
    arguments : sequence of str
    description : str, optional
        In place of the docstring of `kind`.

    Raises
    ------
    UsageError
        One line, with the name that was probably meant.
    HelpShown
    """
    import tyro

    out, complaint = io.StringIO(), io.StringIO()
    width = shutil.get_terminal_size((80, 24)).columns
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
            # An optional section is set in code; on the command line its fields are options.
            return tyro.cli(
                kind,
                prog=prog,
                args=list(arguments),
                config=(tyro.conf.AvoidSubcommands,),
                description=_join_lines(description or kind.__doc__ or ""),
            )
    except SystemExit as stop:
        if not stop.code:
            print(_wrap(out.getvalue(), width), end="")
            raise HelpShown from None
    options = list(list_options(kind))
    raise _explain(prog, arguments, options, complaint.getvalue() or out.getvalue()) from None


def suggest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """``did you mean 'fit'?``, or `otherwise` if nothing resembles the word."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def list_options(kind: type, prefix: str = "", default: Any = None) -> Iterator[Option]:
    """Options of a dataclass and of those in its fields, as tyro names them.

    Parameters
    ----------
    kind : type
        A dataclass.
    prefix : str
        What stands before the names: ``pipeline.``.
    default : object of `kind`, optional
        Its sections tell of which class each is, where the field allows several.
    """
    import tyro

    hints = typing.get_type_hints(kind, include_extras=True)
    for item in dataclasses.fields(kind):
        base, about = _unwrap(hints[item.name])
        if tyro.conf.Positional in about:
            continue
        omitted = any(getattr(note, "name", None) == "" for note in about)
        name = f"{prefix}{item.name.replace('_', '-')}"
        value = _default_of(item) if default is None else getattr(default, item.name)
        if dataclasses.is_dataclass(base) or dataclasses.is_dataclass(value):
            inner = prefix if omitted else f"{name}."
            section = typing.cast(type, base) if value is dataclasses.MISSING else type(value)
            known = None if value is dataclasses.MISSING else value
            yield from list_options(section, inner, known)
            continue
        yield Option(f"--{name}", base, value is dataclasses.MISSING)
        if base is bool and tyro.conf.FlagCreatePairsOff not in about:
            leading, _, last = name.rpartition(".")
            yield Option(f"--{leading}{'.' if leading else ''}no-{last}", base, False)


def _default_of(item: dataclasses.Field) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if typing.get_origin(hint) is typing.Annotated:
        base, *about = typing.get_args(hint)
        return base, tuple(about)
    return hint, ()


def _explain(
    prog: str, arguments: Sequence[str], options: Sequence[Option], complaint: str
) -> UsageError:
    """What is wrong with arguments that tyro did not take."""
    names = {option.name: option for option in options}
    see = f"'{prog} --help' lists the options."
    given: dict[str, list[str]] = {}
    last: list[str] = []
    for word in arguments:
        if not word.startswith("-") or _is_number(word):
            last.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name if not name.startswith("--") else name.replace("_", "-")
        if name not in names and name not in ("-v", "-h", "--help"):
            return UsageError(
                f"'{prog}' has no option {name}.", suggest(name, names, otherwise=see)
            )
        last = given.setdefault(name, [])
        last += [value] if equals else []
    missing = [option.name for option in options if option.required and option.name not in given]
    if missing:
        return UsageError(f"'{prog}' needs {' and '.join(missing)}.", see)
    said = _flatten(complaint)
    _, unrecognised, stray = said.rpartition("Unrecognized options: ")
    if unrecognised:
        return UsageError(f"'{prog}' takes no {re.split('[ ,]', stray)[0]}.", see)
    for name, values in given.items():
        if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", said):
            continue
        if not values:
            return UsageError(f"{name} has no value.", f"it takes {_say_kind(names[name].kind)}.")
        choices = _choices(names[name].kind)
        wrong = [value for value in values if value not in choices] if choices else values
        remedy = f"it takes {_say_kind(names[name].kind)}."
        if choices:
            remedy = suggest((wrong or values)[0], choices, otherwise=remedy)
        return UsageError(f"{name} cannot be {' '.join(wrong or values)!r}.", remedy)
    return UsageError(f"'{prog}': {said}.", see)


def _say_kind(kind: Any) -> str:
    """What an option takes, in words."""
    choices = _choices(kind)
    if choices:
        return f"{', '.join(choices[:-1])} or {choices[-1]}"
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        return " or ".join(_say_kind(one) for one in kinds)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        return f"{_say_kind(inner[0])}, {'several' if Ellipsis in inner else len(inner)} of them"
    words = {int: "a whole number", float: "a number", bool: "no value", str: "a text"}
    return words.get(kind, "another value")


def _choices(kind: Any) -> list[str]:
    if typing.get_origin(kind) is typing.Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [choice for one in typing.get_args(kind) for choice in _choices(one)]
    return []


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _flatten(boxed: str) -> str:
    """What is wrong, in one line, without frames and without the advice below the first rule."""
    text = re.sub(r"[│╭╮╰╯|]", " ", boxed)
    paragraphs = [" ".join(part.split()) for part in re.split(r"[─-]{8,}", text)]
    # A heading and the complaint; the rest is advice.
    return ": ".join([part for part in paragraphs if part][:2]).rstrip(".")


def _join_lines(docstring: str) -> str:
    """Paragraphs without the line breaks of the source."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _wrap(shown: str, width: int) -> str:
    """Lines that are wider than the terminal, broken between words."""
    lines = []
    for line in map(str.rstrip, shown.replace("(default: )", "(default: none)").splitlines()):
        if line.startswith("Example: "):
            command = textwrap.wrap(
                line.removeprefix("Example: "),
                width - 4,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
                break_long_words=False,
            )
            lines += ["Example:", " \\\n".join(command)]
        elif len(line) > width:
            lines.append(textwrap.fill(line, width, break_on_hyphens=False))
        else:
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"
