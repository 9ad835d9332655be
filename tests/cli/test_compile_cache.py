"""Compiled programs are kept between runs, by the command line alone and without risk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxmdwarf.cli import compile_cache

PROGRAM = """
import sys
from jaxmdwarf.cli import main
from jaxmdwarf.cli.measure import Command

def run(self, terminal):
    import jax
    hits = []
    jax.monitoring.register_event_listener(lambda name, **k: hits.append(name))
    import jax.numpy as jnp
    value = float(jax.jit(lambda x: jnp.sin(x).sum())(jnp.arange(9.0)))
    return {"value": value, "hits": sum("cache_hits" in name for name in hits)}

Command.run = run
sys.exit(main(["measure", "x", "--out", "t.fits", "--json", *sys.argv[1:]]))
"""


def run(tmp_path, *options, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    kept.update(JAX_PLATFORMS="cpu", XDG_CACHE_HOME=str(tmp_path), **environment)
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=kept)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout), done.stderr


def stored(folder):
    return sorted(path for path in Path(folder).rglob("*-cache"))


def test_a_second_process_finds_what_the_first_compiled_and_survives_what_is_broken(tmp_path):
    first, _ = run(tmp_path)
    kept = stored(tmp_path / "jaxmdwarf" / "xla")
    assert first["hits"] == 0
    assert kept, "small programs are kept too"
    second, _ = run(tmp_path)
    assert second["hits"] == len(kept)
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    third, error = run(tmp_path)
    assert third["value"] == first["value"]
    assert "Traceback" not in error


def test_the_cache_can_be_refused_or_put_elsewhere(tmp_path):
    run(tmp_path, "--no-compile-cache")
    assert not stored(tmp_path)
    mine = tmp_path / "mine"
    run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(mine))
    assert stored(mine)
    assert not (tmp_path / "jaxmdwarf").exists()


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A process without JAX, whose cache folder is its own."""
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Restored after the test, whatever the test sets.
    for name in ("JAX_COMPILATION_CACHE_DIR", *compile_cache._SETTINGS):
        monkeypatch.setenv(name, "")
        os.environ.pop(name)
    return tmp_path


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(bare, monkeypatch):
    (bare / "jaxmdwarf").write_text("a file")
    assert compile_cache.use_compile_cache() is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_wish_for_no_cache_stands(bare, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    assert compile_cache.use_compile_cache() is None


def test_a_process_that_runs_jax_decides_for_itself(bare, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    assert compile_cache.use_compile_cache() is None
    assert not (bare / "jaxmdwarf").exists()


def test_other_processors_have_other_folders(monkeypatch):
    here = compile_cache._name_machine()
    assert here == compile_cache._name_machine()
    monkeypatch.setattr(compile_cache.platform, "processor", lambda: "another one")
    assert compile_cache._name_machine() != here


def test_a_folder_that_has_grown_loses_what_was_used_longest_ago(tmp_path, monkeypatch):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(compile_cache, "LARGEST_BYTES", 150)
    compile_cache._trim(tmp_path)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["new"]
    (tmp_path / "newer").write_bytes(bytes(100))
    compile_cache._trim(tmp_path)
    assert (tmp_path / "newer").exists(), "once a week is enough"


def test_importing_the_package_sets_nothing(tmp_path):
    code = (
        "import os; before = dict(os.environ); import jaxmdwarf, jaxmdwarf.cli\n"
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
