"""Many devices: the same labels as on one."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxmdwarf.inference.devices import star_mesh
from jaxmdwarf.inference.config import FitScheduleConfig
from jaxmdwarf.inference.problem import FitProblem
from jaxmdwarf.inference.schedule import fit
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.base import TableModel
from jaxmdwarf.spectra import SpectrumBatch
from jaxmdwarf.wavelengths import PixelGrid

assert len(jax.devices()) == int(sys.argv[1])
assert (star_mesh() is None) == (sys.argv[1] == "1")
grid = PixelGrid.linear(6000.0, 6199.0, 1.0)
space = LabelSpace(("teff", "logg"), ("K", "dex"), (3000.0, 4.0), (4000.0, 5.0))
rng = np.random.default_rng(0)
corners = 1 - 0.3 * rng.uniform(size=(4, 5)) @ np.exp(
    -0.5 * ((grid.wave_aa - np.linspace(6020, 6180, 5)[:, None]) / 4) ** 2
)
model = TableModel(jnp.asarray(corners, jnp.float32), jnp.zeros(200), space, grid)
n = 150
flux = model.predict_scaled_batch(jnp.asarray(rng.uniform(-0.4, 0.4, (n, 2)), jnp.float32))
flux = flux + jnp.asarray(rng.normal(size=flux.shape) / 50, jnp.float32)
ivar = jnp.full_like(flux, 2500.0).at[7].set(0.0)
batch = SpectrumBatch(flux, ivar, ivar, grid)
found = {}
for name, velocity in (("pixels", True), ("gram", False)):
    problem = FitProblem.from_batch(model, batch, fit_velocity=velocity)
    result = fit(problem, schedule=FitScheduleConfig(batch_size=32))
    found.update({f"{name}_{key}": getattr(result, key) for key in ("labels", "errors", "flags")})
np.savez(sys.argv[2], **found)
"""


def run_on(n_device: int, out: Path) -> dict:
    import numpy as np

    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={n_device}"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(n_device), str(out)],
        check=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    with np.load(out) as arrays:
        return dict(arrays)


def test_four_devices_find_what_one_finds(tmp_path):
    import numpy as np

    one, four = (run_on(n, tmp_path / f"{n}.npz") for n in (1, 4))
    for name in ("pixels", "gram"):
        assert np.isnan(one[f"{name}_labels"][7]).all()
        np.testing.assert_array_equal(four[f"{name}_flags"], one[f"{name}_flags"])
        errors = one[f"{name}_errors"]
        away = np.abs(four[f"{name}_labels"] - one[f"{name}_labels"]) / errors
        assert np.nanmax(away) < 0.02
        np.testing.assert_allclose(four[f"{name}_errors"], errors, rtol=1e-3)
