"""A simulated universe made on the machine at hand, and the paper's training in it."""

import json
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import astuple

import numpy as np

SEED, GRID_SEED = 11, 12
MARGIN = 60
"""Pixels of the theory grid beyond the paper's, on both sides."""
HELD_SNR = 20.0


def build_on_host(gap_text, coarse):
    """Opacity tables of one simulator; runs in a process of its own, on its CPU."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from jaxmdwarf.simulate.gap import DomainGap
    from jaxmdwarf.simulate.synthesis import SynthesisConfig, build_simulator

    gap = DomainGap.parse(gap_text)
    settings = SynthesisConfig(ln_step=4.5e-5) if coarse else SynthesisConfig()
    return jax.tree.map(np.asarray, build_simulator(gap.physics(seed=SEED), settings))


class Universe:
    """Theory and nature, whose tables are computed in the background from the start."""

    def __init__(self, run):
        self.run, self._ready, self._lock = run, {}, threading.Lock()
        wanted = {"simulator", "training"} & set(run.options.sections)
        self._processes = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
        coarse = run.small
        self._tables = {
            name: self._processes.submit(build_on_host, gap, coarse)
            for name, gap in (("theory", "0"), ("nature", "1"))
            if wanted
        }

    def simulator(self, name):
        """Theory's or nature's, on the device."""
        import jax

        with self._lock:
            if name not in self._ready:
                host = self._tables[name].result()
                self._ready[name] = jax.tree.map(jax.numpy.asarray, host)
            return self._ready[name]

    def close(self):
        """Let the processes go."""
        self._processes.shutdown(wait=False, cancel_futures=True)


def make_theory(run):
    """An emulator of theory on the paper's pixels, and how good it is."""
    from jaxmdwarf.labels import LabelSpace
    from jaxmdwarf.models.preprocessing import Preprocessing
    from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA, normalise_model
    from jaxmdwarf.preprocess.masks import PAPER_MASKS_AA, mask_for
    from jaxmdwarf.simulate.survey import sample_grid_labels, theory_grid
    from jaxmdwarf.training.emulator.config import EmulatorConfig, NetworkConfig, ScheduleConfig
    from jaxmdwarf.training.emulator.train import train_emulator
    from jaxmdwarf.wavelengths import PAPER_GRID

    n = 48 if run.small else 2048
    synthesise, wave_aa = fluxes_of(run, "theory")
    made = theory_grid(sample_grid_labels(n, seed=GRID_SEED), synthesise, wave_aa)
    masked = mask_for(made.grid, PAPER_MASKS_AA)
    flux = made.flux / made.flux.mean(axis=1, keepdims=True)
    flux = np.asarray(normalise_model(flux, made.grid, window=masked))[:, MARGIN:-MARGIN]
    inside = slice(MARGIN, -MARGIN)
    config = (
        EmulatorConfig(
            network=NetworkConfig(hidden=(32, 32), rank=8),
            schedule=ScheduleConfig(steps=100, warmup_steps=20),
        )
        if run.small
        else EmulatorConfig(schedule=ScheduleConfig(steps=4000))
    )
    trained = train_emulator(
        made.labels,
        flux,
        label_space=LabelSpace.mdwarf(),
        grid=PAPER_GRID,
        config=config,
        preprocessing=Preprocessing(
            sigma_aa=PAPER_SIGMA_AA, masks_aa=PAPER_MASKS_AA, simulated=True
        ),
        good=~masked[inside],
    )
    return trained.emulator, trained.report.metrics()


def fluxes_of(run, name):
    """Labels to surface fluxes by one of the simulators; one thread at a time on the device."""
    from jaxmdwarf.simulate.synthesis import synthesize

    simulator, lock = run.universe.simulator(name), threading.Lock()
    size = 4 if run.small else 128

    def fluxes(labels):
        with lock:
            return synthesize(simulator, np.asarray(labels, np.float32), batch_size=size)

    return fluxes, simulator.wave_aa


def observe_nature(run):
    """Spectra of a survey at rest, normalised, on the paper's pixels, and their true labels.

    Each thread observes a survey of its own seed; velocities are the true ones, so that what is
    learned is the transfer alone. Failed spectra, giants and K dwarfs are left out.
    """
    n = run.options.n_spectra or (96 if run.small else 10_000)
    n_part = 2 if run.small else 10
    synthesise, wave_aa = fluxes_of(run, "nature")
    with ThreadPoolExecutor(2 if run.small else 10) as pool:
        parts = list(
            pool.map(
                lambda part: observe_part(n // n_part, SEED + part, synthesise, wave_aa),
                range(n_part),
            )
        )
    joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(("flux", "ivar", "labels", "snr", "reference"), joined, strict=True))


def observe_part(n, seed, synthesise, wave_aa):
    """One survey: flux, ivar, true labels, S/N in r, and Teff and [M/H] of its references."""
    from jaxmdwarf.preprocess.batch import preprocess_batch
    from jaxmdwarf.simulate.gap import DomainGap
    from jaxmdwarf.simulate.instrument import NATIVE_GRID
    from jaxmdwarf.simulate.survey import THEORY_GRID, SurveyConfig, simulate_survey
    from jaxmdwarf.spectra import RawSpectrum

    survey = simulate_survey(SurveyConfig(n_spectra=n, seed=seed, gap=DomainGap.full()))
    truth = survey.truth()
    wanted = (truth["kind"] == "mdwarf") & ~truth["failed"]
    flux, ivar, rows, snr = [], [], [], []
    for batch in survey.batches(synthesise, wave_aa):
        seen_well = (batch.ivar > 0).mean(axis=1) > 0.6
        chosen = np.flatnonzero(wanted[batch.rows] & seen_well)
        raws = [
            RawSpectrum(NATIVE_GRID.wave_aa, batch.flux[row], batch.ivar[row]) for row in chosen
        ]
        if not raws:
            continue
        seen = preprocess_batch(
            raws,
            THEORY_GRID,
            rv_kms=truth["rv_kms"][batch.rows[chosen]],
            pad_to=max(len(raws), 320),
            min_overlap=0.0,
            threads=1,
        )
        flux.append(np.asarray(seen.flux)[: len(raws), MARGIN:-MARGIN])
        ivar.append(np.asarray(seen.ivar)[: len(raws), MARGIN:-MARGIN])
        rows.append(batch.rows[chosen])
        snr.append(batch.snr_r[chosen])
    flux, ivar, rows = map(np.concatenate, (flux, ivar, rows))
    # Cosmic rays and lost continua are not those of stars.
    wild = np.abs(flux - 1.0) > 3.0
    flux, ivar = np.where(wild, np.float32(1), flux), np.where(wild, np.float32(0), ivar)
    labels = np.stack([truth[name][rows] for name in ("teff", "logg", "mh", "alpha_m")], axis=1)
    known = survey.references()
    reference = np.stack([known["teff"], known["mh"]], axis=1)
    return flux, ivar, labels, np.concatenate(snr), reference


class LabelJudge:
    """Bias and scatter of labels that fits of held-out stars find through a model."""

    def __init__(self, run, grid, seen, rows):
        import jax.numpy as jnp

        from jaxmdwarf.spectra import SpectrumBatch

        bright = rows[np.nan_to_num(seen["snr"][rows]) > HELD_SNR]
        rows = (bright if len(bright) >= 8 else rows)[: 8 if run.small else 256]
        flux, ivar = (jnp.asarray(seen[name][rows]) for name in ("flux", "ivar"))
        self.batch = SpectrumBatch(flux, ivar, ivar, grid)
        self.labels, self.size = seen["labels"][rows], len(rows)

    def measure(self, model):
        """``{label: {bias, scatter}}``, and the fraction that converged."""
        from jaxmdwarf.inference.config import FitScheduleConfig
        from jaxmdwarf.inference.problem import FitProblem
        from jaxmdwarf.inference.schedule import fit
        from jaxmdwarf.inference.solvers.native import LevenbergMarquardt

        # The spectra are held against the networks as they are, whatever else a model knows.
        problem = FitProblem.from_batch(
            model, self.batch, fit_velocity=False, priors="none", continuum_sigma_aa=None
        )
        found = fit(
            problem,
            solver=LevenbergMarquardt(fast_path=False),
            schedule=FitScheduleConfig(batch_size=self.size),
        )
        away = (found.labels - self.labels)[found.converged]
        summary = {"n": self.size, "converged_fraction": float(found.converged.mean())}
        for name, column in zip(("teff", "logg", "mh", "alpha_m"), away.T, strict=True):
            middle = float(np.median(column)) if column.size else None
            width = 1.4826 * float(np.median(np.abs(column - middle))) if column.size else None
            summary[name] = {"bias": middle, "scatter": width}
        return summary


def train_paper(run):
    """Make the universe, then train until the budget is spent; curves after every interval."""
    from jaxmdwarf.networks.cyclestar import count_parameters
    from jaxmdwarf.training.cyclestar.config import CycleStarConfig
    from jaxmdwarf.training.cyclestar.data import (
        prepare_transfer,
        settle_flux_scale,
        split_for_training,
    )
    from jaxmdwarf.training.cyclestar.guards import find_faults
    from jaxmdwarf.training.cyclestar.loop import build_transfer_model
    from jaxmdwarf.training.cyclestar.steps import continue_transfer, start_transfer
    from jaxmdwarf.training.cyclestar.validation import validate_transfer
    from jaxmdwarf.training.labels.training_set import sample_training_labels
    from jaxmdwarf.training.transfer.domain import ObservedDomain

    clock = {}

    def timed(name, work):
        began = time.perf_counter()
        found = work()
        clock[name] = round(time.perf_counter() - began, 1)
        print(f"  {name}: {clock[name]} s", flush=True)
        return found

    timed("tables", lambda: [run.universe.simulator(name) for name in ("theory", "nature")])
    emulator, eq1 = timed("emulator", lambda: make_theory(run))
    seen = timed("survey", lambda: observe_nature(run))
    reference = seen["reference"] if len(seen["reference"]) >= 50 else None
    drawn = timed(
        "labels",
        lambda: (
            sample_training_labels(
                reference, n_draws=20_000 if run.small else 300_000, seed=SEED
            ).labels
        ),
    )
    domain = ObservedDomain(
        flux=seen["flux"],
        ivar=seen["ivar"],
        information=seen["ivar"],
        grid=emulator.grid,
        frame_kms=np.zeros(len(seen["flux"])),
        snr=np.nan_to_num(seen["snr"]),
    )
    form = choose_form(run)
    config = CycleStarConfig.paper(convolution=form)
    if run.small:
        config = CycleStarConfig.paper(
            sizes="compact", steps=4, report_every=2, validation_rows=16, convolution=form
        )
    split = split_for_training(domain.n_spec, config)
    data = prepare_transfer(emulator, domain, drawn, config, split=split)
    config = settle_flux_scale(config, data)
    judge = LabelJudge(run, emulator.grid, seen, split.test if run.small else split.validation)
    state = start_transfer(data, config)
    summary = {
        "emulator": eq1,
        "n_spectra": domain.n_spec,
        "n_train": len(split.train),
        "n_labels": len(drawn),
        "flux_scale": config.networks.flux_scale,
        "weights": list(astuple(config.losses.weights)),
        "convolution": form,
        "batch_size": config.optimiser.batch_size,
        "parameters": count_parameters(state.generator),
        "made_s": clock,
        "labels_of_theory": timed("fit of theory", lambda: judge.measure(emulator)),
    }
    run.keep("training", summary)
    curves, labels = [], []
    save_curves(run, summary, curves, labels)
    n_step, validation_s = (2 if run.small else 1000), 0.0
    share = 1.0
    reserve = 3.0 if run.small else 25.0
    next_labels = 0.0
    trained_s = 0.0
    interval_s = 0.0
    while int(state.step) < config.schedule.steps:
        if curves and run.left("training") < reserve + 1.5 * (interval_s + validation_s):
            break
        if not curves and run.left("training") < reserve and not run.small:
            raise TimeoutError("the budget was spent before training began")
        began = time.perf_counter()
        state, means = continue_transfer(state, data, config, n_step)
        losses = {name: float(value) for name, value in means.items()}
        interval_s = time.perf_counter() - began
        trained_s += interval_s if curves else 0.0
        began = time.perf_counter()
        scores = validate_transfer(state, data, config)
        validation_s = time.perf_counter() - began
        curves.append(
            {
                "step": int(state.step),
                **losses,
                **{f"val_{name}": value for name, value in scores.items()},
                "iterations_per_s": round(n_step / interval_s, 2),
                "elapsed_s": round(run.elapsed(), 1),
            }
        )
        if not all(np.isfinite(list(losses.values()))):
            summary["diverged_at"] = int(state.step)
            break
        # Labels cost seconds: at the first report, then each time the steps have doubled.
        if int(state.step) >= next_labels and run.left("training") > reserve:
            model = build_transfer_model(data, config, state.average)
            labels.append({"step": int(state.step), **judge.measure(model)})
            next_labels = 2.5 * int(state.step)
        if run.elapsed() > share:
            save_curves(run, summary, curves, labels)
            share = run.elapsed() + 5
            print_curve(curves[-1])
    labels.append(
        {
            "step": int(state.step),
            **judge.measure(build_transfer_model(data, config, state.average)),
        }
    )
    summary["faults"] = find_faults({**scores, **compare_scatter(labels[-1], summary)})
    n_timed = int(state.step) - n_step
    summary |= {
        "steps": int(state.step),
        "iterations_per_s": round(n_timed / trained_s, 2) if trained_s else None,
        "last": curves[-1],
        "labels": labels[-1],
    }
    run.keep("training", summary)
    save_curves(run, summary, curves, labels)
    print_curve(curves[-1])
    print(json.dumps(labels), flush=True)


def compare_scatter(labels, summary):
    """Scatter of labels beside that of theory's, as guards want it."""
    theory = summary["labels_of_theory"]
    found = {}
    for name in ("teff", "logg", "mh"):
        if labels[name]["scatter"] is not None and theory[name]["scatter"] is not None:
            found[f"label_scatter_{name}"] = labels[name]["scatter"]
            found[f"label_scatter_theory_{name}"] = theory[name]["scatter"]
    return found


def choose_form(run):
    """The form of convolution that was faster at the paper's batch, if it was measured."""
    from results_io import read_result

    known = {**read_result("gpu", out=run.options.out), **run.results}
    fastest = known.get("transfer", {}).get("fastest", {})
    return fastest.get("original/8/float32", "auto")


def save_curves(run, summary, curves, labels):
    """Write all intervals so far beside the results."""
    from results_io import save_result

    save_result(
        "cyclestar_paper_curves",
        {"about": run.describe(), "training": summary, "intervals": curves, "labels": labels},
        out=run.options.out,
    )


def print_curve(record):
    """One line of a training."""
    names = (
        "step",
        "rec_obs",
        "cycle_obs",
        "critic_obs",
        "val_gap",
        "val_shared_accuracy",
        "val_split_explains_shared",
        "val_slope_cosine_teff",
        "iterations_per_s",
    )
    shown = {name: round(record[name], 3) for name in names if name in record}
    print(f"  {shown}", flush=True)
