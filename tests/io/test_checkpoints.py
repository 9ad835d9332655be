"""Checkpoints: exact, and the last complete one whatever happens."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmdwarf.errors import FormatError
from jaxmdwarf.io.checkpoints import Checkpoints


def a_state(seed):
    params = {"w": jax.random.normal(jax.random.key(seed), (3, 2)), "b": jnp.zeros(2)}
    moments = optax.adam(1e-3).init(params)
    return (params, moments, jnp.asarray(seed, jnp.int32))


@pytest.fixture
def store(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def test_a_state_comes_back_exactly_in_its_own_structure(store):
    store.save(10, a_state(1))
    back = store.restore(like=a_state(0))
    assert jax.tree.structure(back) == jax.tree.structure(a_state(1))
    for ours, theirs in zip(jax.tree.leaves(a_state(1)), jax.tree.leaves(back), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_newest_is_restored_and_the_older_ones_are_dropped(store):
    for step in (10, 900, 1000):
        store.save(step, a_state(step))
    assert int(store.restore(like=a_state(0))[2]) == 1000
    assert [path.name for path in store.folder.glob("step_*")] == ["step_00001000"]


def test_an_unfinished_write_is_not_taken_for_a_state(store):
    store.save(10, a_state(1))
    (store.folder / "step_00000020.orbax-checkpoint-tmp").mkdir()
    assert int(store.restore(like=a_state(0))[2]) == 1


def test_nothing_there_is_nothing_and_a_broken_state_says_so(store):
    assert store.restore(like=a_state(0)) is None
    store.save(10, a_state(1))
    for file in (store.folder / "step_00000010").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(FormatError, match="cannot be read"):
        store.restore(like=a_state(0))
    store.clear()
    assert store.restore(like=a_state(0)) is None


def test_an_older_state_that_cannot_be_removed_costs_no_training(store, monkeypatch):
    store.save(10, a_state(1))

    def fail(*arguments, **options):
        raise OSError("busy")

    with monkeypatch.context() as patch:
        for name in ("rmdir", "unlink"):
            patch.setattr(os, name, fail)
        store.save(20, a_state(2))
    assert int(store.restore(like=a_state(0))[2]) == 2
