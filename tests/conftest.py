"""Fixtures that every room's tests share."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lazy_beartype import spare_functions_without_arrays
from shared_mlir import share_mlir_contexts

_MOST_MEMORY_MAPS = 50_000
"""Compiled programs take some maps each, and Linux gives a process 65,530: beyond, it crashes."""

_QUICK_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false"
"""With `JAX_DISABLE_MOST_OPTIMIZATIONS`, makes compiling five times as quick.

Tests compile hundreds of programs and run each a few times on little data, so that nearly all of
their time went into optimising. Results differ by rounding alone; `.ci/run` runs the whole pipeline
with the settings that users have.
"""


def pytest_configure(config: pytest.Config) -> None:
    """Set XLA's flags and threads for this process, its workers and the commands that tests start.

    Programs that one worker has compiled are read by the other, and by the next run.
    Workers fill the cores: threads of BLAS beside them wait for each other (a factor of four).
    XLA ends a process that has a flag it does not know, and flags come and go with its releases:
    another process tries them first.
    """
    spare_functions_without_arrays()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and hasattr(config, "cache"):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("compiled"))
        # Writing one takes 40 ms.
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    for library in ("OPENBLAS", "OMP", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Where in Python an operation was called: a tenth of lowering, and nobody reads it here.
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        share_mlir_contexts()
    if "XLA_FLAGS" in os.environ:  # a worker's, or the user's own
        return
    environment = {**os.environ, "XLA_FLAGS": _QUICK_TO_COMPILE}
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True
    )
    os.environ["XLA_FLAGS"] = _QUICK_TO_COMPILE if tried.returncode == 0 else ""


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real spectra, named by the environment variable JAXMDWARF_TEST_DATA."""
    folder = os.environ.get("JAXMDWARF_TEST_DATA")
    if not folder:
        pytest.skip("JAXMDWARF_TEST_DATA is not set: tests on real spectra are left out")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"JAXMDWARF_TEST_DATA names no folder: {path}")
    return path


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: gzip writes the time, and workers must collect alike."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """What was imported stays: garbage collection need not look at it again and again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _bounded_programs() -> Iterator[None]:
    """Forget compiled programs after a module that left a process with very many of them.

    Else they stay, millions of objects that each garbage collection would look through.
    """
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists():
        with maps.open("rb") as lines:
            count = sum(1 for _ in lines)
        if count > _MOST_MEMORY_MAPS:
            gc.unfreeze()
            sys.modules["jax"].clear_caches()
            gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw small, without arranging, what a stage writes beside its table.

    Arranging takes half the time of a figure. Tests of `plots` and reports draw what users see.
    """
    place = request.path.relative_to(request.config.rootpath).parts
    if place[0] != "tests" or place[1] in ("plots", "report"):
        yield
        return
    from matplotlib.figure import Figure

    savefig = Figure.savefig

    def draw_quickly(figure: Figure, *args: Any, **options: Any) -> None:
        figure.set_layout_engine("none")
        savefig(figure, *args, **{**options, "dpi": 40})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", draw_quickly)
        yield
