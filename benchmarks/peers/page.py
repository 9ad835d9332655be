"""The tables of docs/peers.md, from the JSON file of a comparison."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.peers.methods import OURS
from jaxmdwarf.plots.style import describe_quantity

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
README = PAGE.parents[1] / "README.md"

BEGIN, END = "<!-- tables: python -m benchmarks.peers --render -->", "<!-- end of tables -->"
_BINS = ("5-10", "10-20", "20-50", "> 50", "all")
_LABELS = ("teff", "logg", "mh", "alpha_m")


def render_tables(result: dict[str, Any]) -> str:
    """All tables as Markdown.

    Parameters
    ----------
    result : dict
        Of `benchmarks.peers.run.compare_peers`.
    """
    methods = result["methods"]
    parts = [_describe(result)]
    for label in _LABELS:
        given = [one for one in methods if label in one["labels"]]
        if not given:
            continue
        name = describe_quantity(label).axis
        counts = {row["stars"]: row["n"] for row in given[0]["labels"][label]}
        header = [name, *(f"S/N {stars} ({counts[stars]})" for stars in _BINS)]
        rows = [
            [_title(one), *(_cell(label, _row(one, label, stars)) for stars in _BINS)]
            for one in given
        ]
        parts.append(_table(header, rows))
    parts.append(_table(*_tabulate_rest(methods)))
    parts += [_list_ahead(methods, *one) for one in result["ahead_of"].items()]
    return "\n".join(parts)


def render_summary(result: dict[str, Any]) -> str:
    """One row a method over all judged spectra, for the README; bias ± robust scatter."""
    rows = [
        [
            _title(one),
            *(
                _cell(label, _row(one, label, "all")).partition(" (")[0]
                if label in one["labels"]
                else ""
                for label in _LABELS
            ),
        ]
        for one in result["methods"]
    ]
    return _table(["", *(describe_quantity(label).axis for label in _LABELS)], rows)


def put_tables(page: str, tables: str) -> str:
    """The page with its tables replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def _describe(result: dict[str, Any]) -> str:
    config = result["config"]
    seeds = ", ".join(map(str, config["seeds"]))
    return (
        f"Seeds {seeds}; {config['n_spectra']:,} spectra each, of which about "
        f"{config['n_train']:,} may be learned from; {sum(result['stars']):,} judged spectra of "
        f"single M dwarfs ({', '.join(map(str, result['stars']))}). Bias ± robust scatter, and in "
        "brackets the standard deviation; the number of spectra stands over each column.\n"
    )


def _title(one: dict[str, Any]) -> str:
    return f"**{one['title']}**" if one["name"] == OURS else one["title"]


def _row(one: dict[str, Any], label: str, stars: str) -> dict[str, Any]:
    return next(row for row in one["labels"][label] if row["stars"] == stars)


def _cell(label: str, row: dict[str, Any]) -> str:
    if not row["n"]:
        return ""
    quantity = describe_quantity(label)
    bias = quantity.write(row["bias"], signed=True, unit=False)
    scatter, std = (quantity.write(row[key], unit=False) for key in ("scatter", "std"))
    return f"{bias} ± {scatter} ({std})"


def _tabulate_rest(methods: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [
        "",
        "learns from",
        "pulls of Teff: mean, width",
        "of log g",
        "of [M/H]",
        "[M/H] of -1 to -0.7: bias ± scatter",
        "spectra/s of one processor",
        "chosen by validation",
    ]
    rows = []
    for one in methods:
        pulls = [_pulls(one, label) for label in ("teff", "logg", "mh")]
        poor = _cell("mh", _row(one, "mh", "metal-poor")) if "mh" in one["labels"] else ""
        rate = f"{one['stars_per_cpu_s']:,.3g}" if one["name"] != "mean" else ""
        options = ", ".join(dict.fromkeys(one["options"])).replace("'", "")
        cells = [one["learns_from"], *pulls, poor, rate, options]
        rows.append([_title(one), *cells])
    return header, rows


def _pulls(one: dict[str, Any], label: str) -> str:
    if label not in one["labels"]:
        return ""
    row = _row(one, label, "all")
    width = row.get("pull_width")
    if width is None or not math.isfinite(width):
        return ""
    return f"{row['pull_mean']:+.2f}, {width:.2f}"


def _list_ahead(methods: list[dict[str, Any]], own: str, ahead: list[dict[str, Any]]) -> str:
    """Where others are ahead of a row of the package, by more than the errors."""
    titles = {one["name"]: one["title"] for one in methods}
    if not ahead:
        return (
            f"No other method is ahead of *{titles[own]}* by more than the errors, in any cell.\n"
        )
    lines = [f"Ahead of *{titles[own]}* by more than the bootstrap errors of both:\n"]
    by_method: dict[str, list[str]] = {}
    for one in ahead:
        quantity = describe_quantity(one["label"])
        theirs, ours = (
            quantity.write(one[key], signed=one["what"] == "bias", unit=False)
            for key in ("theirs", "ours")
        )
        where = one["stars"] if one["stars"] in ("all", "metal-poor") else f"S/N {one['stars']}"
        by_method.setdefault(one["method"], []).append(
            f"{one['what']} of {quantity.axis}, {where}: {theirs} against {ours}"
        )
    lines += [f"- {titles[name]}: {'; '.join(cells)}." for name, cells in by_method.items()]
    return "\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
