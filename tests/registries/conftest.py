"""One small example of every entry of every registry, by the name under which it is registered.

A new entry is tested by `test_registries` once its example stands here.
"""

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.io.grids.names import GridLabels
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.models.corrected import CorrectedModel, LabelFeatures
from jaxmdwarf.models.cyclestar import CycleStarModel
from jaxmdwarf.models.distilled import Distillate
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.models.priors import LabelPrior, RelationPrior
from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarGenerator, CycleStarSizes
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.training.cyclestar.config import CycleStarConfig
from jaxmdwarf.training.cyclestar.loop import TrainedTransfer
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.methods.cyclestar import CycleStar, MatchedThenCycleStar
from jaxmdwarf.workflows.methods.matched import Matched

from ..io.conftest import wavelengths as lamost_wavelengths
from ..io.conftest import write as write_lamost_or_sdss
from ..io.grids.conftest import (
    btsettl_fits_hdus,
    model_flux,
    spec7_bytes,
    svo_bytes,
    write_aces,
)
from ..io.spectra.conftest import BOSS_WAVE, star, write_desi, write_mrs, write_mwm

GRID = PixelGrid.linear(6000.0, 6079.0, 1.0)
SPACE = LabelSpace.mdwarf()


def find_example(examples, name: str):
    """The example of a registered entry, or a failure that says what to add."""
    if name not in examples.made:
        pytest.fail(
            f"{examples.registry} has an entry {name!r} without an example: add one to "
            f"{examples.table} in {Path(__file__).name} of tests/registries."
        )
    return examples.made[name]


class Examples(NamedTuple):
    """Examples of one registry: its name, that of their table here, and what makes each."""

    registry: str
    table: str
    made: dict[str, Callable]


# --- forward models ------------------------------------------------------------------------------


def draw(seed, *shape, width=1.0):
    """Numbers of a normal distribution, single precision."""
    return jnp.asarray(np.random.default_rng(seed).normal(0, width, shape), jnp.float32)


def draw_weights(seed, init):
    """Parameters like those that `init` makes, without compiling it."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), leaf.dtype), jax.eval_shape(init)
    )


@cache
def make_payne():
    network = PayneNetwork(hidden=(8,), n_out=3, activation="gelu")
    return PayneEmulator(
        draw_weights(0, lambda: init_payne(network, jax.random.key(0), SPACE.n_label)),
        draw(1, 3, GRID.n_pix, width=0.2),
        jnp.asarray(np.linspace(0.9, 1.1, GRID.n_pix), jnp.float32),
        jnp.asarray(np.full(GRID.n_pix, 0.004), jnp.float32),
        network,
        SPACE,
        GRID,
        Preprocessing(30.0, ((6270.0, 6330.0),), 1800.0, simulated=True),
    )


@cache
def make_corrected():
    return CorrectedModel(
        make_payne(),
        draw(2, 6, GRID.n_pix, width=0.03),
        draw(3, 2, GRID.n_pix, width=0.01),
        1.5 * make_payne().model_error,
        LabelFeatures(("teff", "mh"), (3500.0, -0.1), (200.0, 0.2), 2),
        (
            LabelPrior("mh", -0.1, 0.2),
            RelationPrior("logg", ("teff",), ((0,), (1,)), (5.1, -0.4), 0.05, (3000.0,), (1e3,)),
        ),
        1.3,
    )


SIZES = CycleStarSizes(
    n_pix=GRID.n_pix,
    domain=ConvLayers((4,), (8,), (8,)),
    shared=ConvLayers((5,), (3,), (2,)),
    split_channels=(3,),
    shared_latents=4,
    split_latents=2,
    critic_flux=ConvLayers((4,), (8,), (8,)),
    critic_latents=(6,),
)


@cache
def make_distillate():
    network, n_component = PayneNetwork(hidden=(6,), n_out=2), 3
    n_input = SPACE.n_label + n_component
    n_split = SIZES.latent_length * SIZES.split_latents
    return Distillate(
        params=draw_weights(4, lambda: init_payne(network, jax.random.key(0), n_input)),
        basis=draw(5, 2, GRID.n_pix, width=0.05),
        mean=draw(6, GRID.n_pix, width=0.01),
        split_mean=draw(7, SIZES.latent_length, SIZES.split_latents),
        projection=draw(8, n_split, n_component, width=0.02),
        network=network,
    )


@cache
def make_cyclestar():
    generator = CycleStarGenerator(SIZES)
    params = draw_weights(9, lambda: generator.init(jax.random.key(0)))
    distillate = make_distillate()
    return CycleStarModel(make_payne(), params, distillate.split_mean, SIZES, True, distillate)


@cache
def make_table():
    corners = 1 + draw(10, 2**SPACE.n_label, GRID.n_pix, width=0.2)
    return TableModel(corners, make_payne().model_error, SPACE, GRID)


MODELS = Examples(
    "jaxmdwarf.io.model_kinds",
    "MODELS",
    {
        "payne-emulator": make_payne,
        "corrected": make_corrected,
        "cyclestar": make_cyclestar,
        # Of no kind that is saved: by the names of their classes.
        "TableModel": make_table,
        "DistilledModel": lambda: make_cyclestar().surrogate().model,
    },
)


# --- transfer methods ----------------------------------------------------------------------------

_MATCHED = Matched(
    MatchedConfig(strengths=(0.2,), n_passes=1, n_nuisance=1, order=1, min_snr=5.0, n_resample=1)
)
_NETWORKS = CycleStar(
    CycleStarConfig().vary(own_sizes=SIZES, batch_size=8, steps=2, report_every=2),
    # Compiling it takes longer than all else here, and tests of its own do it.
    distillation=None,
)


class UntrainedNetworks(CycleStar):
    """Networks as they were drawn: what is trained before them is another method's."""

    def train(self, domain, emulator, labels, **more):
        model = make_cyclestar()
        return TrainedTransfer(
            CycleStarModel(emulator, model.params, model.mean_split, SIZES, True), {"steps": 0}
        )


METHODS = Examples(
    "jaxmdwarf.workflows.methods.registry",
    "METHODS",
    {
        "matched": lambda: _MATCHED,
        "cyclestar": lambda: _NETWORKS,
        "matched+cyclestar": lambda: MatchedThenCycleStar(
            _MATCHED, UntrainedNetworks(_NETWORKS.settings)
        ),
    },
)


# --- spectra -------------------------------------------------------------------------------------


class SpectrumExample(NamedTuple):
    """A file, how many spectra are in it, and what each of them holds."""

    path: Path
    n_spec: int
    line_aa: float
    """Where the flux is highest, vacuum Angstrom: air would be off by some pixels."""
    bad_aa: tuple[float, float]
    """Where the file says in its own way that pixels are bad."""


LINE_AA, BAD_AA = 7000.0, (7200.0, 7250.0)


def add_line(wave, flux, line_aa=LINE_AA):
    """Flux with one pixel ten times above all others."""
    flux = np.array(flux)
    flux[..., np.argmin(np.abs(wave - line_aa))] = 10 * flux.max()
    return flux


def within(wave, bad_aa=BAD_AA):
    """Pixels that an example marks as bad."""
    return (wave > bad_aa[0]) & (wave < bad_aa[1])


def spectrum_of(layout, bit):
    def make(folder):
        wave = lamost_wavelengths()
        path = write_lamost_or_sdss(
            folder / f"{layout}.fits",
            layout,
            flux=add_line(wave, star(wave)[0]),
            and_mask=np.where(within(wave), bit, 0),
        )
        return SpectrumExample(path, 1, LINE_AA, BAD_AA)

    return make


def make_lamost_mrs(folder):
    path, line_aa, bad_aa = write_mrs(folder / "mrs.fits"), 6500.0, (6600.0, 6610.0)
    with fits_update(path) as hdus:
        table = hdus["COADD_R"].data
        wave = 10 ** table["LOGLAM"]
        table["FLUX"] = add_line(wave, table["FLUX"], line_aa)
        table["ANDMASK"][within(wave, bad_aa)] = 1
    return SpectrumExample(path, 1, line_aa, bad_aa)


def make_sdss_mwm(folder):
    path = write_mwm(folder / "mwm.fits", (1, 2, 1, 0), v_rad=0.0)
    with fits_update(path) as hdus:
        for hdu in hdus[1:3]:
            hdu.data["flux"] = add_line(BOSS_WAVE, hdu.data["flux"])
            hdu.data["ivar"][:, within(BOSS_WAVE)] = 0
    return SpectrumExample(path, 3, LINE_AA, BAD_AA)


def make_desi(folder):
    def edit(images):
        wave = images["R_WAVELENGTH"]
        images["R_FLUX"] = add_line(wave, images["R_FLUX"])
        images["R_MASK"][:, within(wave)] = 1 << 2

    return SpectrumExample(write_desi(folder / "desi.fits", 2, edit=edit), 2, LINE_AA, BAD_AA)


def make_specutils(folder):
    import astropy.units as u
    from astropy.table import QTable

    pytest.importorskip("specutils")
    wave = np.arange(6000.0, 9000.0, 1.0)
    flux = add_line(wave, star(wave)[0])
    # The tables of this format have no mask: pixels are bad where flux is NaN.
    flux[within(wave)] = np.nan
    # Nanometres in disorder would be another test: this one has the units of its columns.
    table = QTable({"wavelength": wave * u.AA, "flux": flux * u.Jy})
    table["uncertainty"] = np.full(wave.size, 0.5) * u.Jy
    table.write(folder / "specutils.fits")
    return SpectrumExample(folder / "specutils.fits", 1, LINE_AA, BAD_AA)


def fits_update(path):
    from astropy.io import fits

    return fits.open(path, mode="update")


SPECTRA = Examples(
    "jaxmdwarf.io.spectra.registry",
    "SPECTRA",
    {
        "lamost": spectrum_of("lamost-coadd", 1),
        "lamost-mrs": make_lamost_mrs,
        "sdss": spectrum_of("sdss-coadd", 1 << 23),
        "sdss-mwm": make_sdss_mwm,
        "desi": make_desi,
        "specutils": make_specutils,
    },
)


# --- model grids ---------------------------------------------------------------------------------


class GridExample(NamedTuple):
    """A model file and what is in it."""

    path: Path
    labels: GridLabels
    wave_aa: np.ndarray
    flux: np.ndarray


FINE = np.arange(6900.0, 7100.0, 0.5)
LABELS = GridLabels(3000.0, 5.0, -0.5, 0.2)


def named_like_btsettl(folder, suffix):
    return folder / f"lte030.0-5.0-0.5a+0.2.BT-Settl.{suffix}"


def make_svo(folder):
    path = folder / "model.txt.gz"
    path.write_bytes(gzip.compress(svo_bytes(FINE, model_flux(FINE))))
    return path


def make_aces(folder):
    return write_aces(folder / "Z", FINE, model_flux(FINE), mh=LABELS.mh, alpha=LABELS.alpha_m)


def make_btsettl_fits(folder):
    path = named_like_btsettl(folder, "spec.fits.gz")
    btsettl_fits_hdus(FINE, model_flux(FINE)).writeto(path)
    return path


def make_btsettl_text(folder):
    path = named_like_btsettl(folder, "spec.7")
    path.write_bytes(spec7_bytes(FINE, model_flux(FINE)))
    return path


def holding_fine(make):
    return lambda folder: GridExample(make(folder), LABELS, FINE, model_flux(FINE))


GRIDS = Examples(
    "jaxmdwarf.io.grids.registry",
    "GRIDS",
    {
        "svo-text": holding_fine(make_svo),
        "phoenix-aces": holding_fine(make_aces),
        "btsettl-fits": holding_fine(make_btsettl_fits),
        "btsettl-text": holding_fine(make_btsettl_text),
    },
)


@pytest.fixture(scope="module")
def spectrum_examples(tmp_path_factory):
    """Files of all registered spectrum readers, by reader."""
    return _write_all(SPECTRA, tmp_path_factory)


@pytest.fixture(scope="module")
def grid_examples(tmp_path_factory):
    """Files of all registered grid readers, by reader."""
    return _write_all(GRIDS, tmp_path_factory)


def _write_all(examples, tmp_path_factory):
    written = {}
    for name, make in examples.made.items():
        try:
            written[name] = make(tmp_path_factory.mktemp(name))
        except pytest.skip.Exception:  # an optional library is missing
            continue
    return written
