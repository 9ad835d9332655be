"""The house rules that a machine can hold: one-way imports, no circles, sizes, a light import."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import jaxmdwarf

PACKAGE = Path(jaxmdwarf.__file__).parent
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
HEAVY = {"astropy", "pandas", "pyarrow", "sklearn", "matplotlib", "jaxopt", "specutils", "rich"}

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
