"""Columns that each label brings: value, errors and their parts, likelihood alone, correlations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, permutations

from jaxmdwarf.catalogue.column import Column
from jaxmdwarf.labels import GENERIC_UCD, LABELS, VELOCITY, Label

FORMAL_PREFIX = "e_fit_"
"""Begins columns of errors without the part that repeats show (paper, eq. 8)."""

REPEAT_PREFIX = "e_repeat_"
"""Begins columns of the scatter of repeat visits (paper, eq. 9)."""


def label_columns(label: Label) -> tuple[Column, Column]:
    """The columns of a label and of its error.

    Examples
    --------
    >>> from jaxmdwarf.labels import describe_label
    >>> [column.name for column in label_columns(describe_label("mh"))]
    ['M_H', 'e_M_H']
    """
    # The paper writes e.[M/H] and e.Teff; no format but its own takes dots and brackets in names.
    error_ucd = "stat.error" if label.ucd == GENERIC_UCD else f"stat.error;{label.ucd}"
    return (
        Column(label.column, label.description, label.unit, label.ucd),
        Column(label.error_column, f"Error of {label.column}, one sigma", label.unit, error_ucd),
    )


def partial_error_columns(label: Label) -> tuple[Column, Column]:
    """The columns of what a total error is made of: the fit's own, and the scatter of repeats.

    Examples
    --------
    >>> from jaxmdwarf.labels import describe_label
    >>> [column.name for column in partial_error_columns(describe_label("teff"))]
    ['e_fit_Teff', 'e_repeat_Teff']
    """
    column, error = label_columns(label)
    return (
        Column(
            f"{FORMAL_PREFIX}{column.name}",
            f"Error of {column.name} by the fit alone, one sigma",
            error.unit,
            error.ucd,
        ),
        Column(
            f"{REPEAT_PREFIX}{column.name}",
            f"Scatter of {column.name} among visits at this S/N",
            error.unit,
            error.ucd.replace("stat.error", "stat.stdev"),
        ),
    )


def likelihood_columns(label: Label) -> tuple[Column, Column, Column]:
    """The columns of a label by the spectrum alone, its error, and how much is the priors'.

    Examples
    --------
    >>> from jaxmdwarf.labels import describe_label
    >>> [column.name for column in likelihood_columns(describe_label("mh"))]
    ['M_H_lik', 'e_M_H_lik', 'prior_M_H']
    """
    column, error = label_columns(label)
    name = f"{column.name}_lik"
    return (
        Column(name, f"{column.name} by the spectrum alone, no priors", column.unit, column.ucd),
        Column(f"e_{name}", f"Error of {name}, one sigma", column.unit, error.ucd),
        Column(
            f"prior_{column.name}",
            f"Share of the information on {column.name} that is the priors'",
            ucd="stat.weight",
        ),
    )


def correlation_column(one: Label, other: Label) -> Column:
    """The column of the correlation of the errors of two labels.

    Examples
    --------
    >>> from jaxmdwarf.labels import describe_label
    >>> correlation_column(describe_label("teff"), describe_label("mh")).name
    'corr_Teff_M_H'
    """
    names = one.column, other.column
    return Column(
        f"corr_{'_'.join(names)}",
        f"Correlation of the errors of {' and '.join(names)} by the fit",
        ucd="stat.correlation",
    )


def list_label_columns(labels: Iterable[Label], *, partial: bool = True) -> list[Column]:
    """All columns of some labels, in the order of a catalogue.

    Parameters
    ----------
    labels : iterable of Label
        In the order of the model.
    partial : bool
        Whether with the parts of total errors, which catalogues have and fits have not.

    Examples
    --------
    >>> from jaxmdwarf.labels import describe_label
    >>> labels = [describe_label(name) for name in ("teff", "mh")]
    >>> [column.name for column in list_label_columns(labels, partial=False)]
    ['Teff', 'e_Teff', 'Teff_lik', 'e_Teff_lik', 'prior_Teff', \
'M_H', 'e_M_H', 'M_H_lik', 'e_M_H_lik', 'prior_M_H', 'corr_Teff_M_H']
    """
    labels = tuple(labels)
    listed: list[Column] = []
    for label in labels:
        listed += label_columns(label)
        listed += partial_error_columns(label) if partial else ()
        listed += likelihood_columns(label)
    return listed + [correlation_column(*pair) for pair in combinations(labels, 2)]


def describe_label_column(name: str) -> Column | None:
    """What column `name` is, if some label or the velocity brings it."""
    for column in _all_columns():
        if column.name == name:
            return column
    return None


def _all_columns() -> Iterator[Column]:
    for label in (*LABELS.values(), VELOCITY):
        yield from (*label_columns(label), *partial_error_columns(label))
    for label in LABELS.values():
        yield from likelihood_columns(label)
    for pair in permutations(LABELS.values(), 2):
        yield correlation_column(*pair)
