"""Everything worth knowing of one accelerator: results, rates and the paper's training, in minutes.

    python benchmarks/gpu.py [--budget-s 500] [--out DIR] [--sections checks transfer ...]
    python benchmarks/gpu.py --small          # seconds of each on a CPU: does the script still run?

Sections, each written to <out>/<device>/gpu.json as soon as it is known:

checks
    Emulator flux, normal equations, fits and Cycle-StarNet's losses and gradients beside those of
    the CPU in the same process, with tolerances.
transfer
    Training of Cycle-StarNet, original and compact, at several batch sizes, in both forms of
    convolution and all precisions, beside PyTorch (benchmarks/peers/cyclestar_torch.py).
fits, preprocess, simulator
    Spectra a second, and what the survey of 507,513 would take.
training
    `CycleStarConfig.paper()` at the original sizes on a survey simulated and observed here, for
    as long as the budget allows; curves go to cyclestar_paper_curves.json.

Fits are compiled first, many programs at a time on the host's cores, so that their "first call"
times are those of a busy host; times are medians of rounds that end with the device's answer.
A section that fails is recorded with its reason, the next goes on, and the exit code is 1. Only
jax, flax, equinox, optax, optimistix, numpy, scipy and scikit-learn are needed, and torch for the
peer.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

# PyTorch shares the card; and the repository need not be installed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

SURVEY = 507_513
NOT_NEEDED = ("astropy", "erfa", "tyro", "jaxopt", "specutils")
SECTIONS = ("checks", "transfer", "fits", "preprocess", "simulator", "training")
SHARE = {"checks": 0.16, "transfer": 0.43, "fits": 0.56, "preprocess": 0.58, "simulator": 0.6}
"""Of the budget, by which each section is to have ended; training has the rest."""
FLUX_SCALE = (0.977, 0.052)


class Run:
    """The clock, the results, and where they are written."""

    def __init__(self, options):
        self.options, self.began = options, time.perf_counter()
        self.results, self.failed = {}, {}
        self.pool = ThreadPoolExecutor(max_workers=max(2, min(12, (os.cpu_count() or 2) - 2)))

    @property
    def small(self):
        """Whether this is the dry run."""
        return self.options.small

    def elapsed(self):
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def left(self, section):
        """Seconds that a section has still."""
        return SHARE.get(section, 1.0) * self.options.budget_s - self.elapsed()

    def keep(self, name, result):
        """Write what is known of a section."""
        from results_io import save_result

        self.results[name] = result
        about = {"about": self.describe(), "failed": self.failed}
        save_result("gpu", {**about, name: result}, out=self.options.out)

    def describe(self):
        """What ran where."""
        import jax

        return {
            "device": jax.devices()[0].device_kind,
            "backend": jax.default_backend(),
            "jax": jax.__version__,
            "python": sys.version.split()[0],
            "host_cores": os.cpu_count(),
            "small": self.small,
            "budget_s": self.options.budget_s,
            "wall_s": round(self.elapsed(), 1),
        }

    def section(self, name, work):
        """Run a section; a failure is recorded and the run goes on."""
        print(f"[{self.elapsed():6.1f} s] {name}", flush=True)
        began = time.perf_counter()
        try:
            work(self)
        except Exception as error:
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}"[:2000]
            self.keep(name, self.results.get(name, {}))
        spent = round(time.perf_counter() - began, 1)
        self.keep(name, {**self.results.get(name, {}), "section_s": spent})

    def warm_up(self, name, cases, *, reserve=0.0):
        """First calls of all cases at once; those that end in time, with their seconds.

        A case is a function without arguments. One that fails is left out and recorded. Of the
        section's time, `reserve` of what is left is kept for what follows.
        """
        deadline = self.elapsed() + (1 - reserve) * max(self.left(name), 2.0)

        def first(work):
            began = time.perf_counter()
            work()
            return round(time.perf_counter() - began, 2)

        futures = {case: self.pool.submit(first, work) for case, work in cases.items()}
        ready = {}
        for case, future in futures.items():
            try:
                ready[case] = future.result(timeout=max(deadline - self.elapsed(), 0.1))
            except TimeoutError:
                future.cancel()
                print(f"  {name} {case}: not compiled in time", flush=True)
            except Exception as error:
                self.failed[f"{name} {case}"] = f"{type(error).__name__}: {error}"[:500]
                print(f"  {name} {case}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        return ready


def measure(work, rounds):
    """Median seconds, and the spread from the fastest to the slowest round over the median."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    median = statistics.median(spent)
    return median, round((max(spent) - min(spent)) / median, 3)


# ------------------------------------------------------------------------------------ checks


def check_results(run):
    """The accelerator beside the CPU of the same process."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from bench_fit import add_noise, make_emulator, observe

    from jaxmdwarf.inference.config import FitScheduleConfig
    from jaxmdwarf.inference.objective import build_objective
    from jaxmdwarf.inference.problem import FitProblem
    from jaxmdwarf.inference.schedule import fit

    cpu = jax.devices("cpu")[0]
    n = 32 if run.small else 256
    model = make_emulator(40)
    moving, scaled, _ = observe(model, n)
    still = add_noise(model.predict_scaled_batch(jnp.asarray(scaled)), moving)
    points = jnp.asarray(np.random.default_rng(5).uniform(-0.4, 0.4, (n, 5)), jnp.float32)

    def equations(model, batch, points):
        return build_objective(FitProblem.from_batch(model, batch)).normal_equations(points)

    def fit_batches(model, batch, solver="lm", **assumed):
        problem = FitProblem.from_batch(model, batch, **assumed)
        return fit(problem, solver=solver, schedule=FitScheduleConfig(batch_size=min(n, 256)))

    cases = {
        "emulator_flux": lambda m, b, s, p: jax.jit(lambda m, p: m.predict_scaled_batch(p))(
            m, p[:, :4]
        ),
        "normal_equations": lambda m, b, s, p: jax.jit(equations)(m, b, p),
        "fit_velocity": lambda m, b, s, p: fit_batches(m, b),
        "fit_gram": lambda m, b, s, p: fit_batches(m, s, fit_velocity=False),
        "fit_lbfgs": lambda m, b, s, p: fit_batches(m, b, "lbfgs"),
    }
    here, there = (
        (model, moving, still, points),
        jax.device_put((model, moving, still, points), cpu),
    )
    found = {}

    def on_cpu(work):
        with jax.default_device(cpu):
            return jax.tree.map(np.asarray, work(*there))

    def both(name, work):
        # The CPU's compilation runs beside the accelerator's.
        found[name] = [jax.tree.map(np.asarray, work(*here)), on_cpu(work)]

    networks = {
        f"cyclestar_{precision}_{form}": (precision, form)
        for precision in ("float32", "tf32", "bf16")
        for form in ("product", "library")
        # One of each on a small run.
        if not run.small or (precision == "tf32") == (form == "product")
    }
    gradients = prepare_gradients(run)
    warm = {name: (lambda name=name, work=work: both(name, work)) for name, work in cases.items()}
    for name, (precision, form) in networks.items():
        warm[name] = lambda name=name, how=(precision, form): found.update({name: gradients(*how)})
    warm["cyclestar_cpu"] = lambda: found.update(
        {"cyclestar_cpu": gradients("float32", "product", cpu)}
    )
    run.warm_up("checks", warm)
    summary = {}
    for name in cases:
        if name in found:
            compare = compare_fits if name.startswith("fit") else compare_arrays
            summary[name] = compare(name, *found[name])
    if "cyclestar_cpu" in found:
        for name, (precision, _) in networks.items():
            if name in found:
                summary[name] = compare_gradients(found[name], found["cyclestar_cpu"], precision)
    summary["passed"] = all(case["passed"] for case in summary.values())
    summary["n"] = n
    run.keep("checks", summary)
    for name, case in summary.items():
        print(f"  {name}: {case}", flush=True)
    if not summary["passed"] or len(found) < len(warm):
        missing = sorted(set(warm) - set(found))
        raise AssertionError(f"results differ from the CPU's, or are missing: {missing}")


def prepare_gradients(run):
    """A function that computes losses and gradients of a batch at the original sizes."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    from bench_transfer import first_batch, make_data

    from jaxmdwarf.networks.cyclestar import CycleStarCritics, CycleStarGenerator
    from jaxmdwarf.training.cyclestar.config import CycleStarConfig
    from jaxmdwarf.training.cyclestar.losses import Domains, transfer_gradients

    config = CycleStarConfig.paper(flux_scale=FLUX_SCALE)
    if run.small:
        config = config.vary(sizes="compact", batch_size=2)
    data = make_data()
    sizes = config.shape(data.flux.shape[1])
    networks = (
        CycleStarGenerator(sizes).init(jax.random.key(0)),
        CycleStarCritics(sizes).init(jax.random.key(1)),
    )
    domains = Domains(*map(jnp.asarray, first_batch(data, config)))

    def compute(precision, form, device=None):
        chosen = replace(sizes, precision=precision, convolution=form)

        def work(params, critics, domains):
            found = transfer_gradients(
                chosen, params, critics, domains, config.losses.weights, reencoded_split=True
            )
            return found.losses, (found.generator, found.critics)

        inputs = (*networks, domains)
        if device is not None:
            inputs = jax.device_put(inputs, device)
        return jax.tree.map(np.asarray, jax.jit(work)(*inputs))

    return compute


def compare_arrays(name, here, there):
    """Largest difference of each array, over the largest number in it."""
    import jax
    import numpy as np

    tolerance = 2e-5 if name == "emulator_flux" else 3e-4
    worst = max(
        float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
        for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True)
    )
    return {"largest_difference": worst, "tolerance": tolerance, "passed": worst < tolerance}


def compare_fits(_, here, there):
    """Labels in standard deviations, of stars that converge on both."""
    import numpy as np

    both = here.converged & there.converged
    away = (np.abs(here.labels - there.labels) / there.errors)[both].max(axis=1)
    agree = float((here.converged == there.converged).mean())
    p99 = float(np.quantile(away, 0.99))
    return {
        "distance_sigma": {"median": float(np.median(away)), "p99": p99, "max": float(away.max())},
        "converged": [float(here.converged.mean()), float(there.converged.mean())],
        "same_verdict": agree,
        "tolerance": {"p99": 0.1, "same_verdict": 0.98},
        "passed": p99 < 0.1 and agree >= 0.98,
    }


def compare_gradients(here, there, precision):
    """Relative difference of losses, and of both players' gradients as vectors."""
    import jax
    import numpy as np

    losses = max(
        abs(float(here[0][name]) / float(value) - 1)
        for name, value in there[0].items()
        if abs(float(value)) > 1e-6
    )
    vectors = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(one[1])]).astype(np.float64)
        for one in (here, there)
    ]
    gradient = float(np.linalg.norm(vectors[0] - vectors[1]) / np.linalg.norm(vectors[1]))
    tolerance = {"float32": (1e-4, 1e-3), "tf32": (5e-3, 2e-2), "bf16": (5e-2, 2e-1)}[precision]
    return {
        "loss_difference": losses,
        "gradient_difference": gradient,
        "tolerance": list(tolerance),
        "passed": losses < tolerance[0] and gradient < tolerance[1],
    }


# ------------------------------------------------------------------------------------ transfer


def time_transfer(run):
    """Iterations a second of training, ours in all forms and PyTorch's.

    Each program takes ten seconds to compile, one after another: what an earlier run has measured
    is left as it is, so that several short runs fill the table.
    """
    import jax
    from bench_transfer import make_data
    from results_io import read_result

    from jaxmdwarf.training.cyclestar.steps import continue_transfer, start_transfer

    data = make_data()
    batches = (8, 16) if run.small else (8, 128, 32, 256)
    steps = {8: 40, 32: 40, 128: 20, 256: 10, 16: 2}
    if run.small:
        steps = dict.fromkeys(batches, 2)
    known = {} if run.options.again else read_result("gpu", out=run.options.out)
    summary = {"ours": {}, "torch": {}, **known.get("transfer", {})}
    summary["steps_a_dispatch"] = {str(batch): steps[batch] for batch in batches}
    wanted = list_transfers(run, batches)
    # Batch, precision and form change nothing about where a training starts.
    fresh = {
        sizes: start_transfer(data, configure_transfer(sizes, 8, "float32", "product"))
        for sizes in dict.fromkeys(key[0] for key in wanted)
    }

    def time_one(key):
        config, state, n_step = configure_transfer(*key), fresh[key[0]], steps[key[1]]

        def advance():
            nonlocal state
            state, losses = continue_transfer(state, data, config, n_step)
            jax.block_until_ready(losses)
            return losses

        first_s, _ = measure(advance, 1)
        seconds, spread = measure(advance, 2 if run.small else 5)
        if not all(math.isfinite(float(value)) for value in advance().values()):
            raise FloatingPointError(f"losses of {key} are not finite")
        return {
            "iterations_per_s": round(n_step / seconds, 2),
            "spectra_per_s": round(2 * key[1] * n_step / seconds, 1),
            "spread": spread,
            "first_call_s": round(first_s, 2),
        }

    if not run.options.no_peer:
        time_peers(run, data, batches[:2], fresh, summary)
    for key in wanted:
        name = "/".join(map(str, key))
        if name in summary["ours"] or run.left("transfer") < 0:
            continue
        try:
            summary["ours"][name] = time_one(key)
        except Exception as error:
            run.failed[f"transfer {name}"] = f"{type(error).__name__}: {error}"[:500]
        rank_transfers(summary)
        run.keep("transfer", summary)
        print(f"  {name}: {summary['ours'].get(name)}", flush=True)
    if not run.options.no_peer:
        time_peers(run, data, batches, fresh, summary)
    rank_transfers(summary)
    run.keep("transfer", summary)
    for name in ("torch", "ratio", "fastest"):
        print(f"  {name}: {json.dumps(summary.get(name))}", flush=True)


def list_transfers(run, batches):
    """(sizes, batch, precision, form) in the order of interest."""
    if run.small:
        return [("compact", 8, p, f) for p, f in (("float32", "product"), ("bf16", "library"))]
    forms = ("product", "library")
    return [
        (sizes, batch, precision, form)
        for sizes, some, precisions in (
            ("original", batches[:2], ("float32",)),
            ("original", batches[:2], ("bf16", "tf32")),
            ("compact", batches[:2], ("float32",)),
            ("original", batches[2:], ("float32", "bf16")),
            ("compact", batches[:2], ("bf16",)),
        )
        for batch in some
        for precision in precisions
        for form in forms
    ]


def configure_transfer(sizes, batch, precision, form):
    """The paper's training in one form."""
    from dataclasses import replace

    from jaxmdwarf.networks.cyclestar import CycleStarSizes
    from jaxmdwarf.training.cyclestar.config import CycleStarConfig
    from jaxmdwarf.wavelengths import PAPER_GRID

    # Compact networks without centres, which the peer does not know; they cost no time.
    own = replace(CycleStarSizes.compact(PAPER_GRID.n_pix), centred=False)
    return CycleStarConfig.paper(
        own_sizes=own if sizes == "compact" else None,
        batch_size=batch,
        precision=precision,
        convolution=form,
        flux_scale=FLUX_SCALE,
    )


def time_peers(run, data, batches, fresh, summary):
    """PyTorch, eager, in the same precisions: factors of its matrix products and convolutions."""
    import jax
    import torch
    from bench_transfer import first_batch, make_peer

    cuda = torch.cuda.is_available()
    summary["peer"] = {"torch": torch.__version__, "device": "cuda" if cuda else "cpu"}
    names = ["compact"] if run.small else ["original", "compact"]
    for sizes in names:
        for batch in batches if sizes == "original" else batches[:2]:
            config = configure_transfer(sizes, batch, "float32", "product")
            take, _ = make_peer(jax.device_get(fresh[sizes]), config, first_batch(data, config))
            for precision in ("float32", "tf32", "bf16")[: 1 if run.small else 3]:
                name = f"{sizes}/{batch}/{precision}"
                if name in summary["torch"] or run.left("transfer") < 0:
                    continue
                torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
                torch.backends.cudnn.allow_tf32 = precision != "float32"
                kind = "cuda" if cuda else "cpu"
                narrow = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
                n_step = 1 if run.small else 20
                with narrow:
                    take(2)
                    seconds, spread = measure(lambda take=take, n=n_step: take(n), 3)
                summary["torch"][name] = {
                    "iterations_per_s": round(n_step / seconds, 2),
                    "spread": spread,
                }
            run.keep("transfer", summary)


def rank_transfers(summary):
    """The faster form of each, and how many times PyTorch's rate it has."""
    best = {}
    for key, case in summary["ours"].items():
        name, form = key.rsplit("/", 1)
        if case["iterations_per_s"] > best.get(name, ("", 0.0))[1]:
            best[name] = (form, case["iterations_per_s"])
    summary["fastest"] = {name: form for name, (form, _) in best.items()}
    summary["ratio"] = {
        name: round(rate / summary["torch"][name]["iterations_per_s"], 2)
        for name, (_, rate) in best.items()
        if name in summary["torch"]
    }


# ------------------------------------------------------------------------------------ the rest


def time_fits(run):
    """Stars a second, and the survey's hours."""
    import jax.numpy as jnp
    from bench_fit import add_noise, make_emulator, make_transfer, observe, take

    from jaxmdwarf.inference.config import FitScheduleConfig
    from jaxmdwarf.inference.problem import FitProblem
    from jaxmdwarf.inference.schedule import fit
    from jaxmdwarf.inference.solvers.native import LevenbergMarquardt

    model = make_emulator(40)
    sizes = (32,) if run.small else (2048, 8192, 512)
    n = 64 if run.small else 16384
    n_exact = 16 if run.small else 2048
    moving, scaled, _ = observe(model, n)
    still = add_noise(model.predict_scaled_batch(jnp.asarray(scaled)), moving)
    summary, cases, counts, results = {}, {}, {}, {}

    def add(name, model, spectra, context=None, *, fit_velocity=True, batch_size=None, **solver):
        problem = FitProblem.from_batch(model, spectra, context=context, fit_velocity=fit_velocity)

        def work():
            results[name] = fit(
                problem,
                solver=LevenbergMarquardt(**solver),
                schedule=FitScheduleConfig(batch_size=batch_size),
            )

        cases[name], counts[name] = work, spectra.n_spec

    for size in sizes:
        add(f"velocity/{size}", model, moving, batch_size=size)
        add(f"gram/{size}", model, still, fit_velocity=False, batch_size=size)
    wanted = argparse.Namespace(
        fast=min(n, 8192), distil=64 if run.small else 4096, distil_steps=20 if run.small else 1000
    )
    (transfer, report), seen, split = make_transfer(wanted, model)
    for size in sizes:
        add(
            f"distilled/{size}",
            transfer,
            seen,
            split,
            fit_velocity=False,
            batch_size=min(size, seen.n_spec),
        )
        few = n_exact if run.small else max(n_exact, size)
        add(
            f"exact/{size}",
            transfer,
            take(seen, few),
            split[:few],
            fit_velocity=False,
            fast_path=False,
            batch_size=min(size, few),
        )
    # Large batches through the networks would not fit beside each other.
    together = {name: work for name, work in cases.items() if name != "exact/8192"}
    first_s = run.warm_up("fits", together, reserve=0.4)
    for name, work in cases.items():
        if run.left("fits") < 2 or (name in together and name not in first_s):
            continue
        if name not in first_s:
            try:
                first_s[name] = round(measure(work, 1)[0], 2)
            except Exception as error:
                run.failed[f"fits {name}"] = f"{type(error).__name__}: {error}"[:500]
                continue
        seconds, spread = measure(work, 2 if run.small else 3)
        rate = counts[name] / seconds
        summary[name] = {
            "n": counts[name],
            "spectra_per_s": round(rate, 1),
            "survey_hours": round(SURVEY / rate / 3600, 3),
            "converged_fraction": round(float(results[name].converged.mean()), 4),
            "spread": spread,
            "first_call_s": first_s[name],
        }
        run.keep("fits", summary)
        print(f"  {name}: {summary[name]}", flush=True)
    summary["distillation"] = report
    run.keep("fits", summary)


def time_preprocess(run):
    """Resampling on the host and the pseudo-continuum on the device."""
    import jax
    from bench_preprocess import make_raws

    from jaxmdwarf.preprocess.batch import preprocess_batch

    n = 64 if run.small else 4096
    raws, velocity = make_raws(n)

    def work():
        jax.block_until_ready(preprocess_batch(raws, rv_kms=velocity).flux)

    first_s, _ = measure(work, 1)
    seconds, spread = measure(work, 3)
    result = {
        "n": n,
        "spectra_per_s": round(n / seconds, 1),
        "survey_hours": round(SURVEY * seconds / n / 3600, 3),
        "spread": spread,
        "first_call_s": round(first_s, 2),
    }
    run.keep("preprocess", result)
    print(f"  {result}", flush=True)


def time_simulator(run):
    """Spectra a second of the simulator, fluxes on the host."""
    from gpu_universe import GRID_SEED

    from jaxmdwarf.simulate.survey import sample_grid_labels
    from jaxmdwarf.simulate.synthesis import synthesize

    simulator = run.universe.simulator("theory")
    summary = {}
    for batch in (4,) if run.small else (16, 64, 256):
        labels = sample_grid_labels(batch if run.small else 1024, seed=GRID_SEED)

        def work(n, labels=labels, batch=batch):
            synthesize(simulator, labels[:n], batch_size=batch)

        first_s, _ = measure(lambda work=work, batch=batch: work(batch), 1)
        seconds, spread = measure(lambda work=work: work(None), 1 if run.small else 2)
        summary[str(batch)] = {
            "n": len(labels),
            "spectra_per_s": round(len(labels) / seconds, 1),
            "spread": spread,
            "first_call_s": round(first_s, 2),
        }
        run.keep("simulator", summary)
    print(f"  {summary}", flush=True)


def train(run):
    """The paper's training on a survey made here."""
    from gpu_universe import train_paper

    train_paper(run)


WORK = {
    "checks": check_results,
    "transfer": time_transfer,
    "fits": time_fits,
    "preprocess": time_preprocess,
    "simulator": time_simulator,
    "training": train,
}


def main():
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=500.0, help="seconds in all")
    parser.add_argument("--out", type=Path, help="results folder; benchmarks/results if left out")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--small", action="store_true", help="a dry run of minutes on a CPU")
    parser.add_argument("--no-peer", action="store_true", help="leave PyTorch out")
    parser.add_argument("--again", action="store_true", help="time what was timed before too")
    parser.add_argument("--n-spectra", type=int, help="of the simulated survey")
    options = parser.parse_args()
    if options.small:
        # What is not there on a bare machine must not be asked for.
        for name in NOT_NEEDED:
            sys.modules[name] = None
    run = Run(options)
    from gpu_universe import Universe

    run.universe = Universe(run)
    try:
        for name in SECTIONS:
            if name in options.sections:
                run.section(name, WORK[name])
    finally:
        run.universe.close()
        run.pool.shutdown(wait=False, cancel_futures=True)
    print(json.dumps({"about": run.describe(), "failed": run.failed}, indent=1), flush=True)
    # Threads that still compile what came too late would hold the process.
    sys.stdout.flush()
    os._exit(1 if run.failed else 0)


if __name__ == "__main__":
    main()
