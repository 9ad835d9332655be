"""How Sphinx builds the pages of this folder; CONTRIBUTING.md has the command.

Pages are plain Markdown that can be read as files too. The tutorials are executed while the site is
built, at a small size, on one survey that the first of them simulates. Nothing needs a network,
neither the build nor the pages: formulas are MathML, of which every browser knows, because the
usual renderer is a script that pages would fetch.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import jaxmdwarf

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent

project = "jaxmdwarf"
author = "the jaxmdwarf developers"
version = release = jaxmdwarf.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_nb",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
root_doc = "index"
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}

html_theme = "pydata_sphinx_theme"
html_title = "jaxmdwarf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_math_renderer = "mathml"
copyright = "the jaxmdwarf developers, BSD-3-Clause"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

default_role = "py:obj"
highlight_language = "none"  # blocks that name no language are commands and what they print
autodoc_typehints = "none"  # numpydoc has them beside each parameter, with shapes and units
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False  # the template lists them
numpydoc_class_members_toctree = False

TUTORIALS = ("quickstart", "transfer", "one_spectrum", "catalogue")
"""In the order in which they are executed: each goes on from the files of those before."""

LANDSCAPES = DOCS / "tutorials" / "landscapes.ipynb"
"""A copy of the notebook beside this folder, which .ci/run executes; JAXMDWARF_DOCS_LANDSCAPES=1
executes it here as well, so that its pictures are in the page."""

nb_execution_mode = "force"
nb_execution_excludepatterns = (
    [] if os.environ.get("JAXMDWARF_DOCS_LANDSCAPES") else ["tutorials/landscapes.ipynb"]
)
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
ELSEWHERE = {
    "CONTRIBUTING.md": "extending.md",
    "notebooks/loss_landscape.ipynb": "tutorials/landscapes.ipynb",
}

KERNEL_SETTINGS = {
    # Compiling takes most of the time of so small tutorials; what is compiled runs a single time.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
}
"""Environment of the tutorials; settings of one's own stand."""


def setup(app: Sphinx) -> None:
    """What Sphinx calls when it has read this file."""
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("env-before-read-docs", _order_tutorials)
    app.connect("source-read", _keep_inside)
    _copy_if_changed(REPOSITORY / "notebooks" / "loss_landscape.ipynb", LANDSCAPES)
    work = Path(app.outdir).parent / "tutorials"
    work.mkdir(parents=True, exist_ok=True)
    os.environ["JAXMDWARF_TUTORIALS"] = str(work)
    for name, value in KERNEL_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(work / "compiled"))


def _copy_if_changed(source: Path, copy: Path) -> None:
    if not copy.is_file() or copy.read_bytes() != source.read_bytes():
        shutil.copyfile(source, copy)


def _order_tutorials(app: Sphinx, env: Any, names: list[str]) -> None:
    """Tutorials in their order, before all other pages."""
    order = [f"tutorials/{name}" for name in TUTORIALS]
    names.sort(key=lambda name: order.index(name) if name in order else len(order))


def _keep_inside(app: Sphinx, name: str, source: list[str]) -> None:
    """Links to files outside of this folder that are pages of the site as well."""
    depth = name.count("/")
    for target, page in ELSEWHERE.items():
        there = "../" * (depth + 1) + target
        source[0] = source[0].replace(f"]({there})", f"]({'../' * depth}{page})")


def _visit_math(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _visit_math_block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=True))
    raise nodes.SkipNode
