"""The house rules that a machine can hold: one-way imports, no circles, sizes, a light import."""

import ast
import importlib.util
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import jaxmdwarf

PACKAGE = Path(jaxmdwarf.__file__).parent
REPOSITORY = Path(__file__).parents[1]
ROOMS = (
    ("errors", "precision", "wavelengths", "quality", "labels", "arrays", "spectra", "lsf"),
    ("simulate",),
    ("measure",),
    ("preprocess",),
    ("networks",),
    ("models",),
    ("inference",),
    ("diagnostics",),
    ("training",),
    ("catalogue",),
    ("io",),
    ("plots",),
    ("report",),
    ("workflows",),
    ("quickstart",),
    ("api",),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
NUMERICAL = ("simulate", "preprocess", "networks", "models", "inference", "training")
HEAVY = {
    "astropy",
    "pandas",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "jaxopt",
    "specutils",
    "rich",
    "zarr",
}

MOST_MODULE_LINES = 600
MOST_FUNCTION_LINES = 80
"""Without the docstring."""

# What is still longer, to be split; entries leave with what they name, and none are added.
LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()


def imported_modules(tree: ast.AST, package: str) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def test_each_room_imports_only_rooms_above_it():
    offences = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts in (("__init__",), ("__main__",)):
            continue
        assert parts[0] in LEVEL, f"{path} is in no room: give it one in DESIGN and here"
        package = ".".join(("jaxmdwarf", *parts[:-1]))
        for name in imported_modules(ast.parse(path.read_text()), package):
            target = name.split(".")
            if target[0] != "jaxmdwarf" or len(target) < 2 or target[1] not in LEVEL:
                continue
            if target[1] != parts[0] and LEVEL[target[1]] > LEVEL[parts[0]]:
                offences.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not offences, "\n".join(offences)


def test_no_module_imports_itself_through_others():
    """Imports inside of functions count: they only hide a circle from the interpreter."""
    paths = {
        ".".join(("jaxmdwarf", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    # The front door shows what all rooms have, and rooms ask it for nothing but the version.
    del paths["jaxmdwarf"]
    imports: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        names = imported_modules(ast.parse(path.read_text()), package)
        # An imported object counts for the module that it stands in.
        found = {name if name in paths else name.rpartition(".")[0] for name in names}
        imports[module] = found & paths.keys()
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        raise AssertionError(" imports ".join(reversed(circle.args[1]))) from None


def test_modules_and_functions_are_no_longer_than_a_reader_holds_in_mind():
    modules, functions = set(), set()
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = path.relative_to(PACKAGE).as_posix(), path.read_text()
        if text.count("\n") > MOST_MODULE_LINES:
            modules.add(name)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if lines_of_code(node) > MOST_FUNCTION_LINES:
                functions.add(f"{name}: {node.name}")
    assert modules <= LONG_MODULES, f"split along ideas: {sorted(modules - LONG_MODULES)}"
    assert functions <= LONG_FUNCTIONS, f"split: {sorted(functions - LONG_FUNCTIONS)}"
    done = (LONG_MODULES - modules) | (LONG_FUNCTIONS - functions)
    assert not done, f"take off the list of what is to be split: {sorted(done)}"


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_numerical_rooms_import_no_heavy_library_at_module_level():
    offences = []
    for room in NUMERICAL:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    for name in imported_modules(node, "jaxmdwarf"):
                        if name.split(".")[0] in HEAVY:
                            offences.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not offences, "\n".join(offences)


def test_importing_touches_no_device_and_leaves_configuration_alone():
    rooms = [room for rooms in ROOMS for room in rooms if (PACKAGE / room).is_dir()]
    roots = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    code = (
        "import jax, jax._src.xla_bridge as bridge\n"
        + "".join(f"import jaxmdwarf.{name}\n" for name in roots + rooms)
        + "assert not bridge._backends, bridge._backends\n"
        "assert not jax.config.jax_enable_x64\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def undefined_names(*paths: Path) -> list[str]:
    """Names that nothing defines, as ruff finds them; one-word shapes of jaxtyping are none."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache"]
    command += ["--select", "F821", "--output-format", "json", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    shapes: dict[str, list[ast.expr]] = {}
    offences = []
    for found in json.loads(done.stdout):
        name, place = found["filename"], found["location"]
        if name not in shapes:
            shapes[name] = find_shapes(Path(name).read_text(encoding="utf-8"))
        at = place["row"], place["column"] - 1
        if not any(
            (shape.lineno, shape.col_offset) <= at < (shape.end_lineno, shape.end_col_offset)
            for shape in shapes[name]
        ):
            offences.append(f"{name}:{place['row']}: {found['message']}")
    return offences


def find_shapes(text: str) -> list[ast.expr]:
    """What stands behind the first comma of ``Float[Array, n]`` and its like."""
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    kinds = {alias.name for node in imports if node.module == "jaxtyping" for alias in node.names}
    return [
        shape
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)
        if node.value.id in kinds and isinstance(node.slice, ast.Tuple)
        for shape in node.slice.elts[1:]
    ]


needs_ruff = pytest.mark.skipif(
    importlib.util.find_spec("ruff") is None, reason="ruff is not installed"
)


@needs_ruff
def test_no_name_is_undefined():
    """The configuration leaves F821 out for the shapes, under which a misspelt name could hide."""
    rooms = ("jaxmdwarf", "tests", "experiments", "benchmarks")
    offences = undefined_names(*(REPOSITORY / room for room in rooms))
    assert not offences, "\n".join(offences)


@needs_ruff
def test_a_name_that_is_undefined_is_found_beside_shapes_that_are_words(tmp_path):
    module = tmp_path / "module.py"
    module.write_text(
        "from __future__ import annotations\n"
        "from jaxtyping import Array, Float\n"
        'def f(x: Float[Array, n], y: Float[Array, "n_pix"]) -> Float[Array, n]:\n'
        "    return x + z\n"
        "def g(x: Float[Arrays, n], y: Int[Array, n], u: list[n]) -> int:\n"
        "    return 0\n"
    )
    found = [offence.removeprefix(f"{module}:") for offence in undefined_names(tmp_path)]
    assert found == [
        "4: Undefined name `z`",
        "5: Undefined name `Arrays`",
        "5: Undefined name `Int`",
        "5: Undefined name `n`",
        "5: Undefined name `n`",
    ]
