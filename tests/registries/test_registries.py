"""What every registered model, solver, reader and transfer method keeps, whatever its name.

The tests go through the registries themselves: an entry that is added is tested, once
`conftest.py` has an example of it.
"""

import importlib
import inspect
import json
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmdwarf.models
from jaxmdwarf.errors import MismatchError, RejectedInput
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit_batch
from jaxmdwarf.inference.solvers.base import Solver
from jaxmdwarf.inference.solvers.by_name import SOLVERS, find_solver
from jaxmdwarf.io.grids.native import WaveRange
from jaxmdwarf.io.grids.readers import read_native
from jaxmdwarf.io.grids.registry import GRID_READERS
from jaxmdwarf.io.model_kinds import list_model_kinds
from jaxmdwarf.io.models import describe_model, load_model, save_model
from jaxmdwarf.io.spectra.files import SpectrumFile
from jaxmdwarf.io.spectra.readers import read_spectra, read_spectrum
from jaxmdwarf.io.spectra.records import SpectrumRecord
from jaxmdwarf.io.spectra.registry import READERS
from jaxmdwarf.models.base import ForwardModel
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.training.transfer.domain import ObservedDomain
from jaxmdwarf.wavelengths import PixelGrid, air_to_vacuum
from jaxmdwarf.workflows.methods.base import TransferMethod
from jaxmdwarf.workflows.methods.registry import (
    build_transfer_method,
    find_transfer_method,
    list_transfer_methods,
)

from ..inference.conftest import make_band_model, observe
from .conftest import GRID, GRIDS, METHODS, MODELS, SPACE, SPECTRA, find_example, make_payne, within

N_STAR, N_PADDED = 5, 8


def assert_same_tree(one, other):
    """Bit for bit, static parts included."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(ours) is type(theirs)
        assert np.asarray(ours).dtype == np.asarray(theirs).dtype
        np.testing.assert_array_equal(ours, theirs)


# --- forward models ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(dict.fromkeys([*list_model_kinds(), *MODELS.made])))
def model(request):
    return find_example(MODELS, request.param)()


@pytest.fixture(scope="module")
def batch():
    """Spectra with bad pixels, the last rows without a good one, as batches are filled up."""
    rng = np.random.default_rng(0)
    flux = (1 + 0.1 * rng.normal(size=(N_PADDED, GRID.n_pix))).astype(np.float32)
    ivar = np.where(rng.random(flux.shape) < 0.1, 0, 400.0).astype(np.float32)
    ivar[N_STAR:] = 0
    return SpectrumBatch(*map(jnp.asarray, (flux, ivar, ivar)), GRID)


def draw_scaled(n=N_PADDED):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(-0.4, 0.4, (n, SPACE.n_label)), jnp.float32)


@eqx.filter_jit
def predict(model, scaled, context):
    return model.predict_scaled_batch(scaled, context)


def test_every_class_of_the_models_room_is_tested_here():
    found = set()
    for module in pkgutil.iter_modules(jaxmdwarf.models.__path__, "jaxmdwarf.models."):
        for item in vars(importlib.import_module(module.name)).values():
            own = inspect.isclass(item) and item.__module__ == module.name
            if own and issubclass(item, ForwardModel) and not inspect.isabstract(item):
                found.add(item)
    lacking = found - {type(make()) for make in MODELS.made.values()}
    assert not lacking, f"add examples to MODELS in tests/registries/conftest.py: {lacking}"


def test_models_have_the_shapes_and_types_they_declare_under_strict_promotion(model, batch):
    n_pix, scaled = model.grid.n_pix, draw_scaled()
    flux, fluxes = ((n_pix,), jnp.float32), ((N_PADDED, n_pix), jnp.float32)

    def shape_of(function, *args):
        found = eqx.filter_eval_shape(function, *args)
        return found.shape, found.dtype

    with jax.numpy_dtype_promotion("strict"):
        context = model.read_context(batch)
        assert shape_of(model.predict_scaled, scaled[0]) == flux
        assert shape_of(model.predict, SPACE.unscale(scaled[0])) == flux
        assert shape_of(model.predict_scaled_batch, scaled) == fluxes
        assert shape_of(model.predict_scaled_batch, scaled, context) == fluxes
        slopes = shape_of(jax.jacfwd(model.predict_scaled), scaled[0])
        assert slopes == ((n_pix, SPACE.n_label), jnp.float32)
        head = model.low_rank()
        if head is not None:
            coefficients = shape_of(model.coefficients, scaled[0])
            assert coefficients == ((len(head.basis),), jnp.float32)
            assert (head.basis.shape[1:], head.mean.shape) == ((n_pix,), (n_pix,))
        carried = model.to_synthetic(batch)
        assert carried is None or carried[1].flux.shape == batch.flux.shape
    assert all(len(leaf) == N_PADDED for leaf in jax.tree.leaves(context))
    assert (model.model_error.shape, model.model_error.dtype) == flux
    assert (model.label_space, model.grid) == (SPACE, GRID)
    surrogate = model.surrogate()
    assert (surrogate is not None) == model.expensive
    assert surrogate is None or surrogate.model.grid == model.grid


def test_a_batch_is_its_stars_and_the_linear_head_is_exact(model):
    scaled = draw_scaled(3)
    batch = predict(model, scaled, None)
    one = eqx.filter_jit(lambda model, scaled: model.predict_scaled(scaled))
    np.testing.assert_allclose(one(model, scaled[1]), batch[1], atol=2e-6)
    head = model.low_rank()
    if head is not None:
        coefficients = eqx.filter_jit(lambda model, at: jax.vmap(model.coefficients)(at))
        rebuilt = head.mean + coefficients(model, scaled) @ head.basis
        np.testing.assert_allclose(rebuilt, batch, atol=2e-6)


def test_gradients_are_finite_and_those_of_finite_differences(model):
    at = np.array([0.13, -0.21, 0.08, 0.17])
    slopes = eqx.filter_jit(lambda model, at: jax.jacfwd(model.predict_scaled)(at))
    found = slopes(model, jnp.asarray(at, jnp.float32))
    backwards = eqx.filter_jit(
        lambda model, at: jax.grad(lambda scaled: model.predict_scaled(scaled).sum())(at)
    )
    assert np.isfinite(found).all()
    # One double-precision program for all steps: steps this short drown in single precision.
    steps = 1e-6 * np.concatenate([np.eye(at.size), -np.eye(at.size)])
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), model)
        flux = np.asarray(predict(double, jnp.asarray(at + steps), None))
    expected = (flux[: at.size] - flux[at.size :]) / 2e-6
    np.testing.assert_allclose(found.T, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3, "a model that no label changes is no example"
    total = np.asarray(backwards(model, jnp.asarray(at, jnp.float32)))
    np.testing.assert_allclose(total, found.sum(axis=0), atol=1e-3 * np.abs(found).sum())


def test_padding_rows_and_masked_pixels_change_no_star(model, batch):
    scaled, context = draw_scaled(), model.read_context(batch)
    flux = predict(model, scaled, context)
    other_rows = scaled.at[N_STAR:].set(jnp.nan)
    spoilt = jnp.where(batch.ivar > 0, batch.flux, jnp.nan)
    spoilt_context = model.read_context(eqx.tree_at(lambda one: one.flux, batch, spoilt))
    for ours, theirs in zip(jax.tree.leaves(context), jax.tree.leaves(spoilt_context), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert np.isfinite(ours).all()
    again = predict(model, other_rows, spoilt_context)
    np.testing.assert_array_equal(flux[:N_STAR], again[:N_STAR])
    assert np.isfinite(flux).all()


@pytest.mark.parametrize("kind", list_model_kinds())
def test_models_come_back_from_disk_bit_for_bit(kind, tmp_path):
    model = find_example(MODELS, kind)()
    saved = save_model(model, tmp_path / "model")
    assert describe_model(saved)["kind"] == kind
    loaded = load_model(saved)
    assert_same_tree(model, loaded)
    assert (loaded.priors(), loaded.preprocessing) == (model.priors(), model.preprocessing)
    scaled = draw_scaled()
    np.testing.assert_array_equal(predict(model, scaled, None), predict(loaded, scaled, None))


# --- solvers -------------------------------------------------------------------------------------

SOLVED_GRID = PixelGrid.linear(6000.0, 6149.0, 1.0)


@pytest.fixture(scope="module")
def problem():
    """Five stars of S/N 60 with some bad pixels, and rows without a good pixel below them."""
    model, rng = make_band_model(SOLVED_GRID, n_band=12, margin=0), np.random.default_rng(3)
    scaled = rng.uniform(-0.25, 0.25, (N_STAR, 4)).astype(np.float32)
    batch = observe(model, SOLVED_GRID, scaled, np.zeros(N_STAR), np.full(N_STAR, 60.0), rng)
    return FitProblem.from_batch(model, batch, fit_velocity=False).pad_to(N_PADDED)


@pytest.fixture(scope="module")
def minima(problem):
    """Scaled labels and their errors by scipy, from the model's formula in double precision."""
    from scipy.optimize import least_squares

    parts = (problem.model.linear, problem.model.quadratic, problem.model.shapes)
    linear, quadratic, shapes = (np.asarray(part, np.float64) for part in parts)
    found = []
    for flux, ivar in zip(problem.batch.flux[:N_STAR], problem.batch.ivar[:N_STAR], strict=True):
        good = np.asarray(ivar) > 0
        observed, weight = np.asarray(flux)[good], np.sqrt(np.asarray(ivar)[good])

        def pulls(scaled, observed=observed, weight=weight, good=good):
            depths = np.exp(linear @ scaled + quadratic @ scaled**2)
            return weight * (observed - 1 + depths @ shapes[:, good])

        minimum = least_squares(pulls, np.zeros(4), bounds=(-0.5, 0.5), xtol=1e-12, ftol=1e-12)
        errors = np.sqrt(np.diag(np.linalg.inv(minimum.jac.T @ minimum.jac)))
        found.append((minimum.x, errors))
    return np.array(found).transpose(1, 0, 2)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_finds_the_minimum_and_sees_nothing_else(problem, minima, name):
    solver = find_solver(name)
    assert isinstance(solver, Solver)
    assert hash(solver) == hash(find_solver(name)), "a solver is a static part of a program"
    result = fit_batch(problem, solver=solver)
    assert (result.labels.shape, result.labels.dtype) == ((N_PADDED, 4), jnp.float32)
    assert np.asarray(result.converged)[:N_STAR].all()
    scaled = np.asarray(problem.label_space.scale(result.labels))
    assert (np.abs(scaled[:N_STAR] - minima[0]) < 0.03 * minima[1]).all()
    # Rows that fill up a batch are told from stars.
    assert np.isnan(scaled[N_STAR:]).all()
    assert (np.asarray(result.flags)[N_STAR:] & int(QualityFlag.NO_GOOD_PIXELS)).all()
    # Neither what bad pixels hold nor the company of other stars is seen.
    flux, ivar = problem.batch.flux, problem.batch.ivar
    spoilt = jnp.where(ivar > 0, flux, 1e6).at[1:].set(jnp.nan_to_num(flux[0]))
    ivar = ivar.at[1:].set(ivar[0])
    batch = SpectrumBatch(spoilt, ivar, ivar, SOLVED_GRID)
    other = eqx.tree_at(lambda one: one.batch, problem, batch)
    again = fit_batch(other, solver=solver)
    np.testing.assert_allclose(again.labels[0], result.labels[0], rtol=1e-6)
    np.testing.assert_allclose(again.errors[0], result.errors[0], rtol=1e-5)


# --- readers of spectra --------------------------------------------------------------------------


@pytest.fixture(params=[reader.name for reader in READERS.entries()])
def spectra(request, spectrum_examples):
    """Name of a reader, and its example."""
    find_example(SPECTRA, request.param)
    if request.param not in spectrum_examples:
        pytest.skip(f"what {request.param} reads with is not installed")
    return request.param, spectrum_examples[request.param]


def test_the_first_reader_that_claims_a_file_is_its_own(spectra):
    name, example = spectra
    claims = [one.name for one in READERS.entries() if one.matches(SpectrumFile(example.path))]
    assert claims[0] == name
    assert not any(one.matches(SpectrumFile("x", data=b"no spectrum")) for one in READERS.entries())


def test_readers_give_vacuum_wavelengths_masks_and_native_floats(spectra):
    name, example = spectra
    reader = next(one for one in READERS.entries() if one.name == name)
    records = list(reader.read(SpectrumFile(example.path)))
    assert len(records) == example.n_spec
    for record in records:
        assert isinstance(record, SpectrumRecord)
        wave, flux, ivar = record.wave_aa, record.flux, record.ivar
        assert wave.dtype == np.float64
        assert wave.shape == flux.shape == ivar.shape
        assert (np.diff(wave) > 0).all()
        assert all(one.dtype.kind == "f" and one.dtype.isnative for one in (flux, ivar))
        assert np.isfinite(flux).all()
        assert np.isfinite(ivar).all()
        assert (ivar >= 0).all()
        # In air the line would lie nearly two Angstrom away.
        assert abs(wave[np.argmax(flux)] - example.line_aa) < 0.9
        bad = within(wave, example.bad_aa)
        assert bad.sum() > 10
        assert not ivar[bad].any()
        assert (ivar[~bad] > 0).all()
        assert record.meta["path"] == str(example.path)
        assert record.meta["layout"]


def test_spectra_of_a_file_are_read_alike_alone_and_together(spectra):
    _, example = spectra
    found = read_spectra(example.path)
    assert [spectrum.meta.index for spectrum in found] == list(range(example.n_spec))
    for number, spectrum in enumerate(found):
        one = read_spectrum(example.path, index=number)
        np.testing.assert_array_equal(one.flux, spectrum.flux)
        np.testing.assert_array_equal(one.wave_aa, spectrum.wave_aa)


def test_files_that_are_cut_short_are_rejected(spectra, tmp_path):
    _, example = spectra
    content = example.path.read_bytes()
    for n_byte in (100, 2880, 9000):
        (tmp_path / "cut.fits").write_bytes(content[:n_byte])
        with pytest.raises(RejectedInput) as caught:
            read_spectrum(tmp_path / "cut.fits")
        assert caught.value.remedy


# --- readers of model grids ----------------------------------------------------------------------


@pytest.fixture(params=[reader.name for reader in GRID_READERS.entries()])
def grid(request, grid_examples):
    """Name of a reader, and its example."""
    find_example(GRIDS, request.param)
    return request.param, grid_examples[request.param]


def test_grid_readers_claim_their_own_files_and_no_others(grid):
    from jaxmdwarf.io.compression import read_file_bytes

    name, example = grid
    content = read_file_bytes(str(example.path))
    readers = GRID_READERS.entries()
    claims = [one.name for one in readers if one.matches(str(example.path), content[:20_000])]
    assert claims == [name]


def test_grid_readers_give_sorted_vacuum_spectra_and_labels(grid):
    name, example = grid
    native = read_native(example.path)
    assert (native.layout, native.labels) == (name, example.labels)
    assert native.wave_aa.dtype == native.flux.dtype == np.float64
    assert (np.diff(native.wave_aa) > 0).all()
    np.testing.assert_allclose(native.wave_aa, example.wave_aa, rtol=1e-7)
    np.testing.assert_allclose(native.flux, example.flux, rtol=3e-4)
    in_air = read_native(example.path, air=True)
    np.testing.assert_allclose(in_air.wave_aa, air_to_vacuum(example.wave_aa), rtol=1e-7)
    part = read_native(example.path, wanted=WaveRange(6949.9, 7050.1))
    np.testing.assert_allclose(part.wave_aa[[0, -1]], (6950.0, 7050.0))


def test_a_grid_file_that_is_cut_short_is_rejected(grid, tmp_path):
    _, example = grid
    broken = tmp_path / example.path.name
    for n_byte in (0, 40):
        broken.write_bytes(example.path.read_bytes()[:n_byte])
        with pytest.raises(RejectedInput) as caught:
            read_native(broken)
        assert caught.value.remedy


# --- transfer methods ----------------------------------------------------------------------------


def draw_labels(n, seed):
    """Labels of a main sequence."""
    rng = np.random.default_rng(seed)
    teff, mh = rng.normal(3600.0, 200.0, n), rng.normal(-0.1, 0.2, n)
    logg = 5.1 - 0.5 * (teff - 3400.0) / 1000.0 + rng.normal(0, 0.02, n)
    alpha = np.clip(-0.3 * mh, 0, 0.4) + rng.normal(0, 0.02, n)
    return np.clip(np.stack([teff, logg, mh, alpha], axis=1), SPACE.lower, SPACE.upper)


@pytest.fixture(scope="module")
def domain():
    """Spectra of an emulator, a little brighter in the red, S/N 50."""
    rng, n = np.random.default_rng(4), 120
    scaled = SPACE.scale(jnp.asarray(draw_labels(n, 0), jnp.float32))
    flux = np.asarray(make_payne().predict_scaled_batch(scaled))
    flux = flux + np.linspace(0, 0.05, GRID.n_pix) + 0.02 * rng.normal(size=flux.shape)
    flux = flux.astype(np.float32)
    ivar = np.full(flux.shape, 2500.0, np.float32)
    ivar[:, 30:34] = 0
    return ObservedDomain(flux, ivar, ivar, GRID, np.zeros(n), np.full(n, 50.0))


@pytest.mark.parametrize("name", list_transfer_methods())
def test_methods_declare_what_commands_ask_for(name):
    kind, example = find_transfer_method(name), find_example(METHODS, name)()
    assert issubclass(kind, TransferMethod)
    assert isinstance(example, kind)
    built = build_transfer_method(name, seed=7, preset="paper", steps=3, batch_size=4, min_snr=2.0)
    assert isinstance(built, kind)
    assert (kind.name, built.name, built.seed) == (name, name, 7)
    assert built.least_common >= 1
    with pytest.raises(MismatchError):
        built.require(0)
    example.require(120)
    for method in (built, example):
        assert json.loads(json.dumps(method.describe()))["name"] == name
    with pytest.raises(AttributeError):
        built.name = "other"  # frozen: it is part of a fingerprint


@pytest.mark.parametrize("name", list_transfer_methods())
def test_methods_train_save_and_load(name, domain, tmp_path):
    method = find_example(METHODS, name)()
    trained = method.train(domain, make_payne(), draw_labels(400, 1), folder=tmp_path / "run")
    model = trained.model
    assert (model.label_space, model.grid) == (SPACE, GRID)
    assert isinstance(json.loads(json.dumps(trained.report)), dict)
    scaled = draw_scaled()
    flux = predict(model, scaled, None)
    assert (flux.shape, flux.dtype) == ((N_PADDED, GRID.n_pix), jnp.float32)
    assert np.isfinite(flux).all()
    assert np.abs(flux - predict(make_payne(), scaled, None)).max() > 1e-4, "nothing was learned"
    saved = method.save(trained, tmp_path / "model", training={"method": method.describe()})
    loaded = method.load(saved)
    assert_same_tree(model, loaded)
    np.testing.assert_array_equal(predict(loaded, scaled, None), flux)
    assert describe_model(saved)["training"]["method"]["name"] == name
