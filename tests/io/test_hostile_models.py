"""Model directories with right hashes and wrong content: refused, always in one way."""

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import FormatError, UsageError
from jaxmdwarf.io.models import _hash_description, load_model, read_model_directory, save_model
from jaxmdwarf.io.provenance import hash_files
from jaxmdwarf.models.priors import LabelPrior
from tests.registries.conftest import make_corrected, make_payne


@pytest.fixture(scope="module")
def payne(tmp_path_factory):
    return read_model_directory(save_model(make_payne(), tmp_path_factory.mktemp("m") / "payne"))


@pytest.fixture(scope="module")
def corrected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "corrected"
    return read_model_directory(save_model(make_corrected(), folder))


def pack(arrays, kind=zipfile.ZIP_STORED):
    """An archive of arrays, or of bytes in the place of one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values, allow_pickle=True)
            archive.writestr(f"{name}.npy", content.getvalue())
    return buffer.getvalue()


def write_model(folder, about, arrays, *, packed=None, listed=True):
    """A model directory whose hashes are right, whatever is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    packed = pack(arrays) if packed is None else packed
    about = json.loads(json.dumps(about))
    if isinstance(about.get("arrays"), dict):
        about["arrays"]["sha256"] = hashlib.sha256(packed).hexdigest()
        if listed:
            about["arrays"]["shapes"] = {k: list(np.shape(v)) for k, v in arrays.items()}
    about["sha256"] = _hash_description(about)
    (folder / "arrays.npz").write_bytes(packed)
    (folder / "model.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def vary_description(about):
    """Names and descriptions with an entry that is missing or of another kind."""
    for key in ("labels", "pixels", "spectra", "network", "trained_on_simulation", "arrays"):
        yield f"no {key}", {name: value for name, value in about.items() if name != key}
        for value in (None, 3, "x", [], [1], *([{"a": 1}] if key != "arrays" else [])):
            yield f"{key} {value}", {**about, key: value}
    for section in ("pixels", "spectra", "network"):
        for key in about[section]:
            if key == "wavelengths":
                continue
            kept = {name: value for name, value in about[section].items() if name != key}
            yield f"{section} without {key}", {**about, section: kept}
            values = (-1, 0, "x", {"a": 1}, *([2**70] if section != "spectra" else []))
            for value in values:
                yield f"{section}.{key} {value}", {**about, section: {**kept, key: value}}
    first, *others = about["labels"]
    strange = {"name": (None, 3, [], "logg"), "unit": (None, 3, []), "lower": (None, "x", 9e9)}
    for key, values in {**strange, "upper": (None, [], -9e9)}.items():
        for value in values:
            yield f"label {key} {value}", {**about, "labels": [{**first, key: value}, *others]}
    yield "labels of one name", {**about, "labels": [first] * 4}
    yield "two labels", {**about, "labels": about["labels"][:2]}


def vary_arrays(arrays):
    """Names and arrays with one that is missing, strange, or of another shape or kind."""
    changes = {
        "nan": lambda values: np.full_like(values, np.nan),
        "inf": lambda values: np.where(values == values.max(), np.inf, values),
        "scalar": lambda values: np.float32(1.0),
        "short": lambda values: values[..., :-1],
        "deep": lambda values: values[None],
        "text": lambda values: np.full(values.shape, "x"),
        "complex": lambda values: values.astype(np.complex64),
        "objects": lambda values: values.astype(object),
    }
    for name, values in arrays.items():
        yield f"no {name}", {key: one for key, one in arrays.items() if key != name}
        for what, change in changes.items():
            yield f"{name} {what}", {**arrays, name: change(values)}
    yield "negative error", {**arrays, "model_error": -arrays["model_error"]}
    for name in ("evil", "params.a.b.c", "params.", "params.extra.kernel"):
        yield name, {**arrays, name: np.zeros(3, np.float32)}


def find_accepted(folders):
    """Names of the directories that load, or fail in another way than by one line and a remedy."""
    accepted = []
    for name, folder in folders:
        try:
            load_model(folder)
        except FormatError as error:
            if error.remedy and "\n" not in str(error):
                continue
        accepted.append(name)
    return accepted


def test_what_is_right_loads(tmp_path, payne):
    about, arrays = payne
    model = load_model(write_model(tmp_path / "m", about, arrays))
    np.testing.assert_array_equal(model.basis, arrays["basis"])


def test_descriptions_of_other_kinds_are_refused(tmp_path, payne):
    about, arrays = payne
    folders = (
        (name, write_model(tmp_path / "m", changed, arrays))
        for name, changed in vary_description(about)
    )
    assert not find_accepted(folders)


@pytest.mark.parametrize("kind", ["payne", "corrected"])
def test_arrays_that_cannot_be_those_of_a_model_are_refused(tmp_path, request, kind):
    about, arrays = request.getfixturevalue(kind)
    folders = (
        (name, write_model(tmp_path / "m", about, changed)) for name, changed in vary_arrays(arrays)
    )
    assert not find_accepted(folders)


def test_arrays_that_nothing_lists_are_refused(tmp_path, payne):
    about, arrays = payne
    more = {**arrays, "evil": np.zeros(3, np.float32)}
    with pytest.raises(FormatError, match="not those that it lists"):
        load_model(write_model(tmp_path / "m", about, more, listed=False))


def test_archives_that_expand_or_are_none_are_refused(tmp_path, payne):
    about, arrays = payne
    zeros = {**arrays, "basis": np.zeros((3, 10_000_000), np.float32)}
    header = io.BytesIO()
    about_it = {"descr": "<f4", "fortran_order": False, "shape": (1 << 33,)}
    np.lib.format.write_array_header_1_0(header, about_it)
    whole = pack(arrays)
    archives = {
        "compressed": pack(zeros, zipfile.ZIP_DEFLATED),
        "huge": whole.replace(arrays["mean"].tobytes(), header.getvalue().ljust(320, b"\0")),
        "garbage": b"garbage",
        "empty": b"",
        "npy": b"\x93NUMPY\x01\x00",
        "cut": whole[:-30],
    }
    folders = (
        (name, write_model(tmp_path / "m", about, arrays, packed=packed))
        for name, packed in archives.items()
    )
    assert not find_accepted(folders)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"format": "jaxmdwarf-model", "format_version": 1, "x": NaN, "sha256": "a"}',
        '{"format": "jaxmdwarf-model", "format_version": 1, "x": -Infinity, "sha256": "a"}',
        '{"format": "jaxmdwarf-model", "format_version": 1, "x": 1' + "0" * 5000 + "}",
        '{"format": "jaxmdwarf-model", "format_version": true, "sha256": "a"}',
        "\ufeff{}",
    ],
    ids=["deep", "nan", "infinity", "digits", "version", "mark"],
)
def test_json_that_readers_choke_on_is_refused(tmp_path, payne, text):
    folder = write_model(tmp_path / "m", *payne)
    (folder / "model.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError):
        load_model(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["arrays.npz", "model.json"])
def test_a_named_pipe_is_not_waited_for(tmp_path, payne, name):
    folder = write_model(tmp_path / "m", *payne)
    os.mkfifo(folder / "pipe")
    load_model(folder)
    assert hash_files(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(FormatError):
        load_model(folder)


def spoil_models():
    """What `load_model` says of a model, and the model."""
    payne, corrected = make_payne(), make_corrected()
    done = payne.preprocessing
    turned = replace(done, masks_aa=((6330.0, 6270.0),))
    spoilt = payne.basis.at[1, 7].set(jnp.nan)
    weights = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), payne.params)
    no_prior = LabelPrior("mh", 0.0, 0.2)
    object.__setattr__(no_prior, "mean", np.nan)  # as an older version would have made it
    return {
        "basis holds numbers that are not finite": replace(payne, basis=spoilt),
        "bias holds numbers that are not finite": replace(payne, params=weights),
        "model_error is negative": replace(payne, model_error=-payne.model_error),
        "sigma_aa is -30": replace(payne, preprocessing=replace(done, sigma_aa=-30.0)),
        "a mask is from 6330.0": replace(payne, preprocessing=turned),
        "no wavelengths": replace(payne, grid=replace(payne.grid, start_aa=2e7)),
        "-1.0 is no positive number": replace(corrected, noise_scale=-1.0),
        # JSON has no word for these.
        "NoneType": replace(corrected, noise_scale=np.nan),
        "LabelPrior": replace(corrected, label_priors=(no_prior,)),
    }


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    kept = save_model(make_payne(), tmp_path / "kept")
    before = hash_files(kept)
    for reason, model in spoil_models().items():
        for folder in (tmp_path / "new", kept):
            with pytest.raises(UsageError, match=f"cannot be saved.*{reason}") as caught:
                save_model(model, folder)
            assert caught.value.remedy
    assert os.listdir(tmp_path) == ["kept"]
    assert hash_files(kept) == before
