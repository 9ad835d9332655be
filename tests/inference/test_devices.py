"""Many devices: the same labels as on one."""

import os
import subprocess
import sys

import jax
import numpy as np

from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.devices import star_mesh
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel, predict_compiled
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

N_DEVICE = 4


def fit_here():
    """Fits on all devices that this process has, on pixels and on Gram systems."""
    assert (star_mesh() is None) == (len(jax.local_devices()) == 1)
    grid = PixelGrid.linear(6000.0, 6199.0, 1.0)
    space = LabelSpace(("teff", "logg"), ("K", "dex"), (3000.0, 4.0), (4000.0, 5.0))
    rng = np.random.default_rng(0)
    corners = 1 - 0.3 * rng.uniform(size=(4, 5)) @ np.exp(
        -0.5 * ((grid.wave_aa - np.linspace(6020, 6180, 5)[:, None]) / 4) ** 2
    )
    model = TableModel(*jax.device_put((np.float32(corners), np.zeros(200, "f4"))), space, grid)
    flux = predict_compiled(model, jax.device_put(np.float32(rng.uniform(-0.4, 0.4, (150, 2)))))
    flux = np.float32(np.asarray(flux) + rng.normal(size=flux.shape) / 50)
    ivar = np.full_like(flux, 2500.0)
    ivar[7] = 0.0
    batch = SpectrumBatch(*jax.device_put((flux, ivar, ivar)), grid)
    found = {}
    for name, velocity in (("pixels", True), ("gram", False)):
        problem = FitProblem.from_batch(model, batch, fit_velocity=velocity)
        result = fit(problem, schedule=FitScheduleConfig(batch_size=32))
        for key in ("labels", "errors", "flags"):
            found[f"{name}_{key}"] = getattr(result, key)
    return found


def test_four_devices_find_what_one_finds(tmp_path):
    out, flags = tmp_path / "four.npz", os.environ.get("XLA_FLAGS", "")
    many = f"{flags} --xla_force_host_platform_device_count={N_DEVICE}"
    program = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    subprocess.run(
        [sys.executable, "-c", program, str(out)],
        check=True,
        env={**os.environ, "XLA_FLAGS": many, "JAX_PLATFORMS": "cpu"},
    )
    one = fit_here()
    with np.load(out) as four:
        for name in ("pixels", "gram"):
            assert np.isnan(one[f"{name}_labels"][7]).all()
            np.testing.assert_array_equal(four[f"{name}_flags"], one[f"{name}_flags"])
            errors = one[f"{name}_errors"]
            away = np.abs(four[f"{name}_labels"] - one[f"{name}_labels"]) / errors
            assert np.nanmax(away) < 0.02
            np.testing.assert_allclose(four[f"{name}_errors"], errors, rtol=1e-3)


if __name__ == "__main__":
    assert len(jax.devices()) == N_DEVICE
    np.savez(sys.argv[1], **fit_here())
