"""Model directories: exact, without pickle, quick to load, refused when damaged or foreign."""

import dataclasses
import json
import time
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io import model_kinds
from jaxmdwarf.io.model_kinds import register_model_kind
from jaxmdwarf.io.models import (
    describe_model,
    load_model,
    read_model_directory,
    save_model,
    write_model_directory,
)
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA
from jaxmdwarf.wavelengths import PAPER_GRID


@pytest.fixture(params=[40, None], ids=["low-rank", "plain"])
def emulator(request):
    network = PayneNetwork(hidden=(300, 300), n_out=request.param)
    keys = jax.random.split(jax.random.key(0), 2)
    return PayneEmulator(
        params=init_payne(network, keys[0], 4),
        basis=jax.random.normal(keys[1], (request.param or 300, PAPER_GRID.n_pix)),
        mean=jnp.linspace(0.9, 1.1, PAPER_GRID.n_pix),
        model_error=jnp.full(PAPER_GRID.n_pix, 0.003),
        network=network,
        label_space=LabelSpace.mdwarf(),
        grid=PAPER_GRID,
        preprocessing=Preprocessing(30.0, PAPER_MASKS_AA, 1800.0, simulated=True),
    )


@pytest.fixture
def saved(tmp_path, emulator):
    return save_model(emulator, tmp_path / "model", training={"eq1_median": 0.001})


def test_a_model_comes_back_bit_for_bit_within_a_second(saved, emulator):
    start = time.perf_counter()
    loaded = load_model(saved)
    assert time.perf_counter() - start < 1.0
    assert jax.tree.structure(loaded) == jax.tree.structure(emulator)  # static parts included
    for ours, theirs in zip(jax.tree.leaves(emulator), jax.tree.leaves(loaded), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_description_says_what_the_model_is(saved, emulator):
    about = json.loads((saved / "model.json").read_text())
    assert about["kind"] == "payne-emulator"
    assert about["trained_on_simulation"] is True
    assert about["labels"][0] == {"name": "teff", "unit": "K", "lower": 2500.0, "upper": 4600.0}
    assert about["pixels"]["n_pix"] == 2901
    assert about["pixels"]["wavelengths"] == "vacuum Angstrom"
    assert about["spectra"]["sigma_aa"] == 30.0
    assert about["spectra"]["resolving_power"] == 1800.0
    assert len(about["spectra"]["masks_aa"]) == 7
    assert about["training"] == {"eq1_median": 0.001}
    assert describe_model(saved) == about


def test_numbers_of_numpy_are_plain_and_those_without_a_word_are_null(tmp_path, emulator):
    training = {"n": np.int64(3), "p95": np.float32(0.5), "row": np.arange(2), "bad": np.nan}
    path = save_model(emulator, tmp_path / "m", training=training)
    assert describe_model(path)["training"] == {"n": 3, "p95": 0.5, "row": [0, 1], "bad": None}


def test_nothing_is_pickled(saved):
    with zipfile.ZipFile(saved / "arrays.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                version = np.lib.format.read_magic(stream)
                header = np.lib.format.read_array_header_1_0
                assert version == (1, 0)
                assert not header(stream)[2].hasobject
    with pytest.raises(UsageError, match="objects"):
        write_model_directory(saved.with_name("bad"), {"kind": "x"}, {"a": np.array([object()])})


def test_another_format_version_is_refused_by_name(saved):
    about = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**about, "format_version": 2}))
    with pytest.raises(FormatError, match="format version 2; this version of jaxmdwarf reads") as e:
        load_model(saved)
    assert e.value.remedy


def test_one_flipped_bit_is_noticed(saved):
    packed = bytearray((saved / "arrays.npz").read_bytes())
    packed[len(packed) // 2] ^= 1
    (saved / "arrays.npz").write_bytes(packed)
    with pytest.raises(FormatError, match="damaged"):
        load_model(saved)


def test_truncated_and_missing_arrays_are_noticed(saved):
    packed = (saved / "arrays.npz").read_bytes()
    (saved / "arrays.npz").write_bytes(packed[:-100])
    with pytest.raises(FormatError, match="damaged"):
        load_model(saved)
    (saved / "arrays.npz").unlink()
    with pytest.raises(FormatError, match="missing"):
        load_model(saved)


def test_an_edited_description_is_noticed(saved):
    text = (saved / "model.json").read_text()
    (saved / "model.json").write_text(text.replace('"upper": 4600.0', '"upper": 5300.0'))
    with pytest.raises(FormatError, match="changed"):
        load_model(saved)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no model directory"):
        load_model(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for contents in (None, "{", "[]", '{"format": "something else"}'):
        if contents is not None:
            (tmp_path / "folder" / "model.json").write_text(contents)
        with pytest.raises(FormatError, match=r"model\.json"):
            load_model(tmp_path / "folder")


def test_a_kind_of_the_future_is_refused_by_name(tmp_path):
    path = write_model_directory(tmp_path / "m", {"kind": "telepathy"}, {"a": np.ones(2)})
    assert read_model_directory(path)[1]["a"].tolist() == [1.0, 1.0]
    with pytest.raises(FormatError, match="'telepathy'"):
        load_model(path)


def test_a_model_replaces_a_model_and_nothing_else(tmp_path, saved, emulator):
    (saved / "stale.txt").write_text("of the old model")
    save_model(emulator, saved, extras={"metrics.json": b"{}"})
    assert sorted(path.name for path in saved.iterdir()) == [
        "arrays.npz",
        "metrics.json",
        "model.json",
    ]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("work of years")
    with pytest.raises(UsageError, match="left alone"):
        save_model(emulator, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_failed_write_leaves_the_old_model_and_no_debris(tmp_path, saved, emulator):
    before = (saved / "model.json").read_bytes()
    with pytest.raises(FileNotFoundError):
        save_model(emulator, saved, extras={"no_such_folder/figure.png": b""})
    assert (saved / "model.json").read_bytes() == before
    load_model(saved)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_same_model_is_the_same_bytes(tmp_path, emulator):
    first, second = (save_model(emulator, tmp_path / name) for name in "ab")
    for name in ("model.json", "arrays.npz"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_models_without_a_format_are_refused(tmp_path):
    space = LabelSpace(("mh",), ("dex",), (0.0,), (1.0,))
    flux = jnp.ones((2, PAPER_GRID.n_pix))
    model = TableModel(corners=flux, model_error=flux[0], label_space=space, grid=PAPER_GRID)
    with pytest.raises(UsageError, match="TableModel"):
        save_model(model, tmp_path / "m")


class Shifted(PayneEmulator):
    """A user's own model: the emulator, a constant higher."""

    offset: float = eqx.field(static=True, default=0.25)

    def predict_scaled(self, scaled, context=None):
        return super().predict_scaled(scaled, context) + self.offset


def test_a_kind_of_a_users_own_is_saved_and_loaded_once_it_is_registered(
    tmp_path, emulator, monkeypatch
):
    monkeypatch.setattr(model_kinds, "_KINDS", dict(model_kinds._KINDS))
    fields = {field.name: getattr(emulator, field.name) for field in dataclasses.fields(emulator)}
    mine = Shifted(**fields, offset=0.5)
    # Before: kept as what it is a subclass of.
    assert type(load_model(save_model(mine, tmp_path / "as_parent"))) is PayneEmulator

    def pack(model):
        about, arrays = model_kinds.pack_model(emulator)
        return {"inner": about, "offset": model.offset}, arrays

    def unpack(about, arrays):
        inner = model_kinds.unpack_model(about["inner"], arrays)
        values = {field.name: getattr(inner, field.name) for field in dataclasses.fields(inner)}
        return Shifted(**values, offset=about["offset"])

    register_model_kind("shifted", Shifted, pack, unpack)
    saved = save_model(mine, tmp_path / "mine")
    again = load_model(saved)
    assert (type(again), describe_model(saved)["kind"]) == (Shifted, "shifted")
    labels = jnp.asarray(emulator.label_space.lower)
    assert jnp.array_equal(again.predict(labels), mine.predict(labels))
    with pytest.raises(UsageError, match="'shifted' are Shifted"):
        register_model_kind("shifted", PayneEmulator, pack, unpack)
    del model_kinds._KINDS["shifted"]
    with pytest.raises(FormatError, match="'shifted'") as caught:
        load_model(saved)
    assert "registers this kind" in caught.value.remedy
