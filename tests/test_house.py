"""The house rules that a machine can hold: one-way imports, a light import of the package."""

import ast
import subprocess
import sys
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
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
NUMERICAL = ("simulate", "preprocess", "networks", "models", "inference", "training")
HEAVY = {"astropy", "pandas", "pyarrow", "sklearn", "matplotlib", "jaxopt", "specutils", "rich"}


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
        if parts == ("__init__",):
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
    roots = [path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    code = (
        "import jax, jax._src.xla_bridge as bridge\n"
        + "".join(f"import jaxmdwarf.{name}\n" for name in roots + rooms)
        + "assert not bridge._backends, bridge._backends\n"
        "assert not jax.config.jax_enable_x64\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
