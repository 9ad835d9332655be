"""`jaxmdwarf fit` killed without warning: the same command goes on, and no star shows it."""

import json
import shutil
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxmdwarf.cli import main
from jaxmdwarf.io.models import save_model
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.payne import PayneEmulator
from jaxmdwarf.models.preprocessing import Preprocessing
from jaxmdwarf.networks.payne import PayneNetwork, init_payne
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(6000.0, 6600.0, 1.0)
LOG10_START, N_PIX = 3.77, 560
LAST_S = 1200.0


def make_emulator():
    """An untrained network in front of narrow lines."""
    rng = np.random.default_rng(2)
    centre, width = rng.uniform(6010, 6590, 30), rng.uniform(2.0, 5.0, 30)
    lines = np.exp(-0.5 * ((GRID.wave_aa - centre[:, None]) / width[:, None]) ** 2)
    basis = rng.normal(0, 0.06, (6, 30)) @ lines
    network = PayneNetwork(hidden=(16,), n_out=6, activation="tanh")
    return PayneEmulator(
        init_payne(network, jax.random.key(4), 4),
        jnp.asarray(basis - basis.mean(axis=1, keepdims=True), jnp.float32),
        jnp.ones(GRID.n_pix),
        jnp.full(GRID.n_pix, 1e-3),
        network,
        LabelSpace.mdwarf(),
        GRID,
        Preprocessing(sigma_aa=30.0, masks_aa=(), resolving_power=1800.0, simulated=True),
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return save_model(make_emulator(), tmp_path_factory.mktemp("model") / "emulator")


def write_survey(folder, n_star, write_stars, seed=3):
    """Files of stars in motion, a file that is none, and a copy of another file."""
    rng = np.random.default_rng(seed)
    emulator = make_emulator()
    folder.mkdir()
    for first in range(0, n_star, 1000):
        n = min(1000, n_star - first)
        scaled = rng.uniform(-0.4, 0.4, (n, 4)).astype(np.float32)
        rest = np.asarray(emulator.predict_scaled_batch(jnp.asarray(scaled)))
        rv_kms, snr = rng.uniform(-100, 100, n), 10 ** rng.uniform(0.8, 2.0, n)
        place = {"log10_start": LOG10_START, "n_pix": N_PIX, "first": first, "n_digit": 6}
        write_stars(folder, GRID, rest, rv_kms, snr, rng, **place)
    (folder / f"star-{n_star // 3:06d}-text.fits").write_text("no spectrum")
    # Copied from what is fitted before any kill to what is read after the last.
    shutil.copy(folder / "star-000001.fits.gz", folder / f"star-{n_star - 2:06d}-copy.fits.gz")
    return folder


class Run:
    """One command line, to be given as often as it takes."""

    def __init__(self, folder, model_dir, out, chunk_size) -> None:
        self.out = out
        self.partial = out.with_name(f"{out.name}.partial")
        words = ["fit", str(folder), "--model", str(model_dir), "--out", str(out)]
        words += ["--chunk-size", str(chunk_size), "--processes", "2", "--json"]
        self.words = words
        program = f"import sys; from jaxmdwarf.cli import main; sys.exit(main({words!r}))"
        self._command = [sys.executable, "-c", program]

    def finish(self, capsys):
        """Run to the end, in this process; the summary."""
        capsys.readouterr()
        assert main(self.words) == 0
        return json.loads(capsys.readouterr().out)

    def kill_after(self, number):
        """Kill the process (as kill -9 does) once a chunk is on disk; chunks that are then done."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running = subprocess.Popen(self._command, **quiet)
        try:
            until = time.monotonic() + LAST_S
            while not (self.partial / f"chunk-{number:06d}.json").exists():
                assert running.poll() is None, "the run ended before it could be killed"
                assert time.monotonic() < until
                time.sleep(0.001)
            refused = main(self.words)
            assert running.poll() is None, "the run ended before it could be killed"
        finally:
            running.kill()
            assert running.wait() == -9
        # Another process cannot write the same catalogue meanwhile.
        assert refused == 2
        return len(list(self.partial.glob("chunk-*.json")))


@pytest.mark.parametrize(
    ("n_star", "chunk_size", "kills"),
    [
        (200, 8, (9,)),
        pytest.param(20_000, 256, (30, 55), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_in_the_catalogue_of_one_that_was_not(
    model_dir, tmp_path, capsys, write_stars, n_star, chunk_size, kills
):
    folder = write_survey(tmp_path / "survey", n_star, write_stars)
    whole = Run(folder, model_dir, tmp_path / "whole" / "catalogue.parquet", chunk_size)
    killed = Run(folder, model_dir, tmp_path / "killed" / "catalogue.parquet", chunk_size)
    n_chunk = -(-(n_star + 2) // chunk_size)
    done = 0
    for number in kills:
        before, done = done, killed.kill_after(number)
        assert before < done < n_chunk
        assert not killed.out.exists()
        # Killed between the rows of a chunk and the note that they are all there.
        rows = killed.partial / f"chunk-{done:06d}.parquet"
        assert not rows.exists() or not rows.with_suffix(".json").exists()
        rows.write_bytes(b"PAR1 half of it")
    summary = killed.finish(capsys)
    undisturbed = whole.finish(capsys)
    assert undisturbed["fitted_now"] == n_star
    # One of the chunks that were done may hold the file without a spectrum.
    assert n_star - done * chunk_size <= summary["fitted_now"] <= n_star - done * chunk_size + 1
    first, second = read_table(whole.out), read_table(killed.out)
    pd.testing.assert_frame_equal(second, first, check_exact=True)
    assert first["obsid"].astype(int).tolist() == list(range(1000, 1000 + n_star))
    assert (first["chi2_red"] > 0).all()
    assert first["RV"].nunique() > 0.9 * n_star
    rejects = [read_rejects(run.out.with_name("catalogue_rejects.csv")) for run in (whole, killed)]
    assert rejects[0] == rejects[1]
    assert len(rejects[0]) == 2
    assert not killed.partial.exists()
    # Given again, the command says what is there, and leaves it alone.
    written = killed.out.read_bytes()
    assert main(killed.words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert killed.out.read_bytes() == written
