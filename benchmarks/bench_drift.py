"""What fits make of wavelength scales that drift: stars of known velocity, and real ones.

    jaxmdwarf quickstart --out quickstart
    python benchmarks/bench_drift.py quickstart [--real FOLDER] [--save]

survey
    Single M dwarfs of the quickstart's survey, whose scales do not drift: how many are said to.
injected
    The same with wavelengths that drift as those of the LAMOST plate below: velocities where
    drifts are followed, and where they are not, below and above S/N 30 in i.
real
    LAMOST spectra of a folder by plate: how many scales are put right, and the drift.
cost
    Processor time of a fit that looks for drifts over that of one that does not.

`--save` writes the result to benchmarks/results/<device>/drift.json.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_hostile import take_dwarfs
from results_io import count_cpu_seconds, save_result

import jaxmdwarf as jm
from jaxmdwarf.api.simulation import load_survey
from jaxmdwarf.diagnostics.recovery import measure_pulls, measure_recovery
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.drift import HELD_AA, KNOTS_AA
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.models import load_model
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.wavelengths import doppler_factor

INJECTED_KMS = (60.0, 60.0, 60.0, 30.0, -20.0)
FLAG = int(QualityFlag.WAVELENGTH_DRIFT)


def let_drift(raw):
    """The spectrum with wavelengths that drift."""
    drift = np.interp(raw.wave_aa, (*KNOTS_AA, HELD_AA), (*INJECTED_KMS, 0.0))
    return replace(raw, wave_aa=raw.wave_aa * doppler_factor(drift))


def judge(fitted, speeds, chosen=slice(None)):
    """Velocities against the truth, and how many scales were put right."""
    fitted, speeds = fitted.take(np.arange(len(fitted))[chosen]), speeds[chosen]
    off, error = fitted.result.rv_kms - speeds, fitted.result.e_rv
    recovery, pulls = measure_recovery(off), measure_pulls(off, error)
    return {
        "n": len(fitted),
        "put_right": int(np.count_nonzero(fitted.flags & FLAG)),
        "bias_kms": round(recovery.bias, 2),
        "scatter_kms": round(recovery.scatter, 2),
        "pull_mean": round(pulls.mean, 2),
        "pull_width": round(pulls.width, 2),
    }


def try_real(model, folder):
    """Drifts of the scales of real spectra, plate by plate."""
    plates = defaultdict(list)
    table = jm.fit(folder, model).to_pandas()
    for row in table.itertuples():
        if min(row.SNRr, row.SNRi) > 10:
            plates[re.split(r"spec-\d+-|_sp", Path(row.path).name)[1]].append(row)
    return {
        plate: {
            "n": len(rows),
            "put_right": sum(row.flags & FLAG > 0 for row in rows),
            "drift_kms": [round(row.RVDrift, 1) for row in rows],
            "e_drift": [round(row.e_RVDrift, 1) for row in rows],
        }
        for plate, rows in plates.items()
    }


def measure_cost(fitters, raws, rounds):
    """Processor time with over without, both orders."""
    ratios = []
    for turn in range(rounds):
        spent = {}
        for name in ("on", "off") if turn % 2 else ("off", "on"):
            before = count_cpu_seconds()
            fitters[name].fit(raws)
            spent[name] = count_cpu_seconds() - before
        ratios.append(spent["on"] / spent["off"])
    return {"ratio": round(statistics.median(ratios), 3), "rounds": rounds, "n": len(raws)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    model = load_model(options.quickstart / "transfer")
    fitters = {
        name: Fitter(model, FitConfig(wavelength_drift=name == "on")) for name in ("on", "off")
    }
    survey = load_survey(options.quickstart / "survey")
    raws, rows = take_dwarfs(survey, options.n)
    speeds = survey.truth.iloc[rows]["rv_kms"].to_numpy(float)
    drifting = [let_drift(raw) for raw in raws]
    bright = survey.truth.iloc[rows]["snr_i"].to_numpy(float) > 30
    injected = {}
    for name, fitter in fitters.items():
        fitted = fitter.fit(drifting)
        for where, chosen in (("S/N 10-30", ~bright), ("S/N > 30", bright)):
            injected.setdefault(where, {})[name] = judge(fitted, speeds, chosen)
    result = {
        "survey": {name: judge(fitter.fit(raws), speeds) for name, fitter in fitters.items()},
        "injected": injected,
        "cost": measure_cost(fitters, raws, options.rounds),
    }
    if options.real:
        result["real"] = try_real(model, options.real)
    print(json.dumps(result, indent=1))
    if options.save:
        print(save_result("drift", result))


if __name__ == "__main__":
    main()
