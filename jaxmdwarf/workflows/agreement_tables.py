"""A catalogue against several references in one table: as CSV, as Markdown, for a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from jaxmdwarf.diagnostics.agreement import HIGH_SNR, AgreementRow, list_agreement
from jaxmdwarf.io.json_files import plain_json
from jaxmdwarf.plots.style import describe_quantity
from jaxmdwarf.workflows.validating import Validation

FIELDS = (
    "n",
    *("bias", "e_bias", "robust_scatter", "e_robust_scatter"),
    *("mean", "e_mean", "scatter", "e_scatter"),
)


def list_all_agreement(results: Mapping[str, Validation]) -> list[tuple[str, str, AgreementRow]]:
    """Rows of all references: title, quantity, and the agreement of a part of the stars."""
    return [
        (title, name, row)
        for title, result in results.items()
        for name, sample in result.samples.items()
        for row in list_agreement(sample.measured, sample.reference, result.snr)
    ]


def agreement_csv(rows: list[tuple[str, str, AgreementRow]]) -> str:
    """One line a row; ``low`` and ``high`` are the edges of the bin, of S/N or of the label."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["reference", "quantity", "by", "low", "high", *FIELDS])
    for title, name, row in rows:
        numbers = [getattr(row.agreement, field) for field in FIELDS[1:]]
        edges = [f"{edge:.6g}" for edge in (row.low, row.high)]
        written = [f"{number:.6g}" for number in numbers]
        writer.writerow([title, name, row.by, *edges, row.agreement.n, *written])
    return text.getvalue()


def agreement_metrics(rows: list[tuple[str, str, AgreementRow]]) -> list[dict[str, Any]]:
    """Plain numbers, an entry a row."""
    return [
        {
            "reference": title,
            "quantity": name,
            "by": row.by,
            "low": plain_json(row.low),
            "high": plain_json(row.high),
            **plain_json({field: getattr(row.agreement, field) for field in FIELDS}),
        }
        for title, name, row in rows
    ]


def agreement_table(
    rows: list[tuple[str, str, AgreementRow]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows for readers: all stars, and those with S/N above 50."""
    header = ["reference", "label", "stars", "n", "bias", "scatter", "mean", "std"]
    return header, [
        [
            title,
            describe_quantity(name).axis,
            "all" if row.by == "all" else f"S/N > {HIGH_SNR:g}",
            str(row.agreement.n),
            *(
                _with_error(name, *pair, signed=signed)
                for pair, signed in (
                    ((row.agreement.bias, row.agreement.e_bias), True),
                    ((row.agreement.robust_scatter, row.agreement.e_robust_scatter), False),
                    ((row.agreement.mean, row.agreement.e_mean), True),
                    ((row.agreement.scatter, row.agreement.e_scatter), False),
                )
            ),
        ]
        for title, name, row in rows
        if row.by == "all" or (row.by, row.low, row.high) == ("snr", HIGH_SNR, float("inf"))
    ]


def agreement_markdown(rows: list[tuple[str, str, AgreementRow]]) -> str:
    """`agreement_table` as Markdown."""
    header, body = agreement_table(rows)
    lines = [header, ["---"] * len(header), *body]
    return "".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in one) + " |\n" for one in lines
    )


def _with_error(name: str, value: float, error: float, *, signed: bool) -> str:
    quantity = describe_quantity(name)
    text = quantity.write(value, signed=signed, unit=False)
    return text if error != error else f"{text} ± {quantity.write(error, unit=False)}"
