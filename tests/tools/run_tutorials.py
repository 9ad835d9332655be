"""Execute the tutorials in one process, without pictures: does every cell still work?

``python -m tests.tools.run_tutorials`` takes all of them in their order, each of which goes on from
the files of those before, in a new folder or that of JAXMDWARF_TUTORIALS. The site, which shows
what they give, executes each in a process of its own.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[2] / "docs"
LANDSCAPES = DOCS.parent / "notebooks" / "loss_landscape.ipynb"
"""The page "landscapes" of the tutorials is a copy of this notebook."""

SETTINGS = {
    # What is compiled runs once, on little data.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
}
"""As for the site; settings of one's own stand."""


def list_tutorials() -> list[Path]:
    """Notebooks in the order of the table of contents."""
    text = (DOCS / "tutorials" / "index.md").read_text(encoding="utf-8")
    block = re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.M | re.S)[0]
    names = [line for line in block.split() if not line.startswith(":")]
    files = {name: DOCS / "tutorials" / f"{name}.md" for name in names}
    return [LANDSCAPES if name == "landscapes" else file for name, file in files.items()]


def list_cells(path: Path) -> list[str]:
    """The code of a notebook, .md or .ipynb, without what only notebooks understand."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        code = (one["source"] for one in json.loads(text)["cells"] if one["cell_type"] == "code")
        cells = ["".join(lines) for lines in code]
    else:
        cells = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, flags=re.M | re.S)
    return [re.sub(r"^(?:%|:).*$", "", cell, flags=re.M) for cell in cells]


def run_cell(cell: str, scope: dict[str, Any], name: str) -> None:
    """Execute a cell and show what its last line gives, as a notebook would."""
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), scope)
    if last is not None:
        show(eval(compile(ast.Expression(last.value), name, "eval"), scope))


def show(value: Any) -> None:
    """What a notebook does with a value; nobody sees it."""
    if isinstance(value, Figure):
        value.savefig(io.BytesIO())
    elif hasattr(value, "_repr_html_"):
        value._repr_html_()
    elif value is not None:
        repr(value)


def main() -> int:
    """Execute the notebooks that are named, or all; the exit status."""
    paths = [Path(name).resolve() for name in sys.argv[1:]] or list_tutorials()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("JAXMDWARF_TUTORIALS", folder)
        for path in paths:
            began, cpu = time.perf_counter(), time.process_time()
            scope: dict[str, Any] = {"__name__": "tutorial"}
            for number, cell in enumerate(list_cells(path), start=1):
                run_cell(cell, scope, f"{path.name}, cell {number}")
            took, used = time.perf_counter() - began, time.process_time() - cpu
            print(f"== {path.name}: {took:.0f} s, {used:.0f} s of a core", flush=True)
        os.chdir(DOCS)  # out of what is taken away
    return 0


if __name__ == "__main__":
    sys.exit(main())
