"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


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
    """Name bytes by their argument: gzip writes the time, and workers must collect the same names."""
    return argname if isinstance(val, bytes) else None
