"""Model directories of transfers: exact, the base model inside, other architectures refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import FormatError
from jaxmdwarf.io.models import (
    load_model,
    read_model_directory,
    save_model,
    write_model_directory,
)
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6399.0, 1.0)


@pytest.fixture(scope="module")
def model():
    network, space = PayneNetwork(hidden=(8,), n_out=3), LabelSpace.mdwarf()
    keys = jax.random.split(jax.random.key(0), 4)
    emulator = PayneEmulator(
        init_payne(network, keys[0], space.n_label),
        jax.random.normal(keys[1], (3, 400)),
        jnp.ones(400),
        jnp.full(400, 0.003),
        network,
        space,
        GRID,
        Preprocessing(30.0, ((6270.0, 6330.0),), 1800.0, simulated=True),
    )
    sizes = CycleStarSizes.compact(400)
    split = jax.random.normal(keys[3], (sizes.latent_length, sizes.split_latents))
    return CycleStarModel(
        emulator, CycleStarGenerator(sizes).init(keys[2]), split, sizes, residual=True
    )


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return save_model(model, tmp_path_factory.mktemp("transfer") / "model", training={"gap": 0.2})


def test_a_transfer_comes_back_bit_for_bit_with_its_base_model(saved, model):
    loaded = load_model(saved)
    assert jax.tree.structure(loaded) == jax.tree.structure(model)  # static parts included
    for ours, theirs in zip(jax.tree.leaves(model), jax.tree.leaves(loaded), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.preprocessing == model.base.preprocessing


def test_the_description_says_what_it_is_and_on_what_it_stands(saved):
    about, _ = read_model_directory(saved)
    assert about["kind"] == "cyclestar"
    assert about["base"]["kind"] == "payne-emulator"
    assert about["labels"] == about["base"]["labels"]
    assert about["pixels"]["n_pix"] == 400
    assert about["trained_on_simulation"] is True
    assert about["sizes"]["shared"]["strides"] == [4, 2]
    assert about["training"] == {"gap": 0.2}


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["sizes"].update(shared_latents=17),
        lambda about: about["base"].update(kind="oracle"),
        lambda about: about.update(kind="oracle"),
    ],
    ids=["architecture", "base", "kind"],
)
def test_parts_of_another_architecture_or_kind_are_refused(saved, tmp_path, change):
    about, arrays = read_model_directory(saved)
    change(about)
    path = write_model_directory(tmp_path / "other", about, arrays)
    with pytest.raises(FormatError):
        load_model(path)


def test_sizes_survive_the_description(model):
    from jaxmdwarf.io.json_files import plain_json
    from jaxmdwarf.io.model_kinds import _read_sizes

    for sizes in (CycleStarSizes.original(2901), model.sizes):
        assert _read_sizes(plain_json(dataclasses.asdict(sizes))) == sizes
