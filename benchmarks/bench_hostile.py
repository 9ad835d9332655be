"""What spectra that are wrong in known ways do to a fit, and what defending against them costs.

    jaxmdwarf quickstart --out quickstart
    python benchmarks/bench_hostile.py quickstart [--cases damage batches ...] [--save]

Stars are spectra of the quickstart's own model at known labels, with a smooth continuum, Gaussian
noise (S/N 20 to 100 a pixel) and velocities within 100 km/s, on pixels of LAMOST's: whatever moves
their labels is what was done to them. Each fit is made with clipping and without.

damage
    Every star damaged in one way after the other. `moved` counts stars whose labels or velocity
    moved by more than 3 sigma from those of the undamaged spectrum, `silent` those of them without
    a flag that the undamaged star has not (that pixels were clipped does not count as one);
    `lost` have no labels, `lost_silent` no labels and no flag.
batches
    One list in another order, other batch sizes, other lists, and beside ruined neighbours: the
    largest change in sigma, and whether all columns are the same bit by bit.
clean
    Undamaged stars with clipping and without: changes in sigma, pixels lost.
survey
    Stars of the quickstart's survey, which have sky residuals, cosmic rays, emission lines and a
    nature that is not the model's, with clipping and without: scatter about the truth.
speed
    Processor time with clipping over that without, paired and alternated in one process.

`--save` writes the result to benchmarks/results/<device>/hostile.json.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from results_io import read_result, save_result

from jaxmdwarf.api.simulation import load_survey
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.fitter import Fitter
from jaxmdwarf.io.models import load_model
from jaxmdwarf.models.base import predict_compiled
from jaxmdwarf.quality import QualityFlag
from jaxmdwarf.spectra import RawSpectrum, SpectrumMeta
from jaxmdwarf.wavelengths import SPEED_OF_LIGHT_KMS, vacuum_to_air

N_STAR = 64
FAR_SIGMA = 3.0
HEADER_KMS = 10.0
WAVE_AA = 10 ** np.arange(np.log10(5850.0), np.log10(9080.0), 1e-4)


def make_stars(model, n, seed=1):
    """Spectra of the model itself at known labels and velocities, with noise."""
    rng = np.random.default_rng(seed)
    space = model.label_space
    teff = rng.uniform(3000, 4000, n)
    # On the main sequence, where the priors of a transfer expect them.
    logg = 4.74 - 3.7e-4 * (teff - 3700) + 0.05 * rng.normal(size=n)
    labels = np.column_stack([teff, logg, rng.normal(-0.1, 0.2, n), rng.normal(0.05, 0.05, n)])
    speeds, snr = rng.uniform(-100, 100, n), 10 ** rng.uniform(1.3, 2.0, n)
    rest = predict_compiled(model, jax.device_put(space.scale(labels).astype(np.float32)))
    raws = []
    for row, speed, quality in zip(np.asarray(rest, float), speeds, snr, strict=True):
        at = WAVE_AA / (1 + speed / SPEED_OF_LIGHT_KMS)
        slope, bend = rng.uniform(1.0, 4.0), rng.uniform(-0.05, 0.05)
        continuum = 500 * (WAVE_AA / 7500) ** slope * (1 + bend * np.sin(WAVE_AA / 300))
        clean = np.interp(at, model.grid.wave_aa, row) * continuum
        sigma = clean / quality
        header = speed + HEADER_KMS * rng.normal()
        meta = SpectrumMeta(z=header / SPEED_OF_LIGHT_KMS, snr_r=quality, snr_i=quality)
        flux = clean + sigma * rng.normal(size=clean.size)
        raws.append(RawSpectrum(WAVE_AA, flux, sigma**-2, meta))
    return raws, labels, speeds


def add_sigmas(n_pix, sigmas, *, together=False):
    """So many sigma on pixels at random, of either sign, or on neighbours."""

    def damage(raw, rng):
        inside = np.flatnonzero((raw.wave_aa > 6050) & (raw.wave_aa < 8850))
        if together:
            at = rng.choice(inside[:-n_pix]) + np.arange(n_pix)
            sign = rng.choice([-1.0, 1.0])
        else:
            at, sign = rng.choice(inside, n_pix, replace=False), rng.choice([-1.0, 1.0], n_pix)
        flux = raw.flux.copy()
        flux[at] += sign * sigmas / np.sqrt(raw.ivar[at])
        return replace(raw, flux=flux)

    return damage


def scale(factor):
    """Another unit."""
    return lambda raw, rng: replace(raw, flux=raw.flux * factor, ivar=raw.ivar / factor / factor)


def keep(n_pix):
    """All but some pixels masked, at random."""

    def damage(raw, rng):
        inside = np.flatnonzero((raw.wave_aa > 6050) & (raw.wave_aa < 8850))
        kept = np.zeros(raw.wave_aa.size, bool)
        kept[rng.choice(inside, n_pix, replace=False)] = True
        return replace(raw, ivar=np.where(kept, raw.ivar, 0))

    return damage


def rescale(low_aa, high_aa, factor):
    """A step up and down again, errors with the flux."""

    def damage(raw, rng):
        by = np.where((raw.wave_aa > low_aa) & (raw.wave_aa < high_aa), factor, 1.0)
        return replace(raw, flux=raw.flux * by, ivar=raw.ivar / by**2)

    return damage


def emit(*lines_aa, height=3.0):
    """Emission lines as of an active star, in units of the flux below them."""

    def damage(raw, rng):
        at = raw.wave_aa / (1 + raw.meta.z)
        line = sum(np.exp(-0.5 * ((at - one) / 1.7) ** 2) for one in lines_aa)
        return replace(raw, flux=raw.flux * (1 + height * line))

    return damage


def put_ivar(value):
    """One inverse variance for all pixels."""
    return lambda raw, rng: replace(raw, ivar=np.full(raw.ivar.size, value))


def put_flux(value):
    """One flux for all pixels."""
    return lambda raw, rng: replace(raw, flux=np.full(raw.flux.size, value))


def shift_to_air(raw, rng):
    """Air wavelengths taken for vacuum."""
    return replace(raw, wave_aa=vacuum_to_air(raw.wave_aa))


DAMAGE = {
    "one pixel of 10 sigma": add_sigmas(1, 10.0),
    "one pixel of 300 sigma": add_sigmas(1, 300.0),
    "one pixel of 10^6 sigma": add_sigmas(1, 1e6),
    "ten pixels of 10 sigma": add_sigmas(10, 10.0),
    "ten pixels of 30 sigma": add_sigmas(10, 30.0),
    "ten neighbours of 10 sigma": add_sigmas(10, 10.0, together=True),
    "ten neighbours of 30 sigma": add_sigmas(10, 30.0, together=True),
    "ten pixels of 10^6 sigma": add_sigmas(10, 1e6),
    "a hundred pixels of 10 sigma": add_sigmas(100, 10.0),
    "step x3 from 7000 A on": rescale(7000.0, 1e5, 3.0),
    "step x1.2 from 7000 A on": rescale(7000.0, 1e5, 1.2),
    "x3 within 7400-7500 A": rescale(7400.0, 7500.0, 3.0),
    "emission in the Ca II triplet and He I": emit(8500.4, 8544.4, 8664.5, 6679.99, height=0.5),
    "flux times 1e30": scale(1e30),
    "flux times 1e-30": scale(1e-30),
    "constant flux": put_flux(300.0),
    "flux zero": put_flux(0.0),
    "flux negative": put_flux(-300.0),
    "ivar 1e30": put_ivar(1e30),
    "ivar 1e-30": put_ivar(1e-30),
    "one good pixel": keep(1),
    "sixty good pixels": keep(60),
    "air taken for vacuum": shift_to_air,
}


def far_from(found, clean):
    """Largest change of labels and velocity of each star, in errors of the clean fit."""
    labels = np.abs(found.result.labels - clean.result.labels) / clean.result.errors
    speed = np.abs(found.result.rv_kms - clean.result.rv_kms) / clean.result.e_rv
    return labels.max(axis=1), speed


def name_flags(flags):
    """How many rows have each flag."""
    return {
        bit.name: n
        for bit in QualityFlag
        if (n := int(np.count_nonzero(np.asarray(flags) & int(bit))))
    }


def try_damage(fitters, raws, which=None):
    """Of every kind of damage: stars that moved, and those that moved without a word."""
    found = {}
    clean = {name: fitter.fit(raws, pad_to=N_STAR) for name, fitter in fitters.items()}
    for number, (kind, damage) in enumerate(DAMAGE.items()):
        if which and which not in kind:
            continue
        rng = np.random.default_rng(number)
        damaged = [damage(raw, rng) for raw in raws]
        found[kind] = {
            name: describe_damage(fitter.fit(damaged, pad_to=N_STAR), clean[name])
            for name, fitter in fitters.items()
        }
        print(kind, json.dumps(found[kind]), flush=True)
    return found


def describe_damage(damaged, clean):
    labels, speed = far_from(damaged, clean)
    known = np.isfinite(damaged.result.labels).all(axis=1)
    # That pixels were left out is no warning.
    told = (damaged.flags & ~clean.flags & ~int(QualityFlag.OUTLIERS_CLIPPED)) != 0
    moved = known & ((labels > FAR_SIGMA) | (speed > FAR_SIGMA))
    teff = damaged.result.labels[:, 0] - clean.result.labels[:, 0]
    silent = known & ~told
    return {
        "moved": int(moved.sum()),
        "silent": int((moved & ~told).sum()),
        "labels_silent": int((silent & (labels > FAR_SIGMA)).sum()),
        "lost": int((~known).sum()),
        "lost_silent": int((~known & ~told).sum()),
        "median_teff_change": round(float(np.nanmedian(teff)), 1) if known.any() else None,
        "worst_silent_sigma": round(float(np.max(labels[silent], initial=0.0)), 2),
        "flags": name_flags(damaged.flags & ~clean.flags),
    }


def try_batches(model, config, raws):
    """How much a star's result depends on what is fitted with it."""
    fitter = Fitter(model, config)
    whole = fitter.fit(raws, pad_to=N_STAR)
    found = {}

    def compare(name, other, rows, mine=slice(None)):
        part, reference = other.take(np.arange(len(other))[mine]), whole.take(np.asarray(rows))
        labels, speed = far_from(part, reference)
        same = all(
            np.array_equal(a, b, equal_nan=True)
            for a, b in zip(part.result, reference.result, strict=True)
        )
        found[name] = {
            "worst_sigma": float(f"{max(labels.max(), speed.max()):.3g}"),
            "bitwise": bool(same and np.array_equal(part.flags, reference.flags)),
        }
        print(name, found[name], flush=True)

    n = len(raws)
    compare("the same again", fitter.fit(raws, pad_to=N_STAR), np.arange(n))
    compare("backwards", fitter.fit(raws[::-1], pad_to=N_STAR), np.arange(n)[::-1])
    some = np.random.default_rng(3).permutation(n)
    compare("shuffled", fitter.fit([raws[i] for i in some], pad_to=N_STAR), some)
    rng = np.random.default_rng(4)
    ruined = [raw if i % 2 else add_sigmas(10, 1e6)(raw, rng) for i, raw in enumerate(raws)]
    odd = np.arange(1, n, 2)
    compare("every other one ruined", fitter.fit(ruined, pad_to=N_STAR), odd, mine=odd)
    flat = [raw if i % 2 else put_flux(0.0)(raw, rng) for i, raw in enumerate(raws)]
    compare("every other one zero", fitter.fit(flat, pad_to=N_STAR), odd, mine=odd)
    compare("the first five alone", fitter.fit(raws[:5], pad_to=N_STAR), np.arange(5))
    compare("the first five in a shorter array", fitter.fit(raws[:5]), np.arange(5))
    for size in (8, 16, 64):
        schedule = FitScheduleConfig(batch_size=size)
        other = Fitter(model, replace(config, schedule=schedule)).fit(raws, pad_to=N_STAR)
        compare(f"batches of {size}", other, np.arange(n))
    return found


def try_clean(fitters, model, seed=11):
    """What clipping does to stars that need none."""
    raws, labels, _ = make_stars(model, 4 * N_STAR, seed=seed)
    fits = {name: fitter.fit(raws, pad_to=4 * N_STAR) for name, fitter in fitters.items()}
    base, clipped = fits["off"], fits["on"]
    away, speed = far_from(clipped, base)
    return {
        "n": len(raws),
        "median_sigma": round(float(np.median(away)), 5),
        "p99_sigma": round(float(np.quantile(away, 0.99)), 4),
        "max_sigma": round(float(max(away.max(), speed.max())), 4),
        "stars_that_lost_pixels": int(np.count_nonzero(base.result.n_pix - clipped.result.n_pix)),
        "new_flags": name_flags(clipped.flags & ~base.flags),
        "flags": name_flags(clipped.flags),
        "pull_width": {
            name: (
                1.4826 * np.median(np.abs((fit.result.labels - labels) / fit.result.errors), axis=0)
            )
            .round(3)
            .tolist()
            for name, fit in fits.items()
        },
    }


def try_survey(fitters, survey, n):
    """Single M dwarfs of a simulated survey with S/N above 10: nearness to the truth."""
    raws, rows = take_dwarfs(survey, n)
    truth = survey.truth.iloc[rows]
    names = fitters["on"].model.label_space.names
    labels, speeds = truth[list(names)].to_numpy(float), truth["rv_kms"].to_numpy(float)
    fits = {name: fitter.fit(raws) for name, fitter in fitters.items()}
    base, clipped = fits["off"], fits["on"]
    lost = base.result.n_pix - clipped.result.n_pix
    away, _ = far_from(clipped, base)
    both = base.result.converged & clipped.result.converged
    summary = {
        "n": len(raws),
        "active": int(truth["active"].sum()),
        "share_of_stars_that_lost_pixels": round(float(np.mean(lost > 0)), 3),
        "pixels_lost_quantiles": np.quantile(lost, [0.5, 0.9, 0.99, 1.0]).round().tolist(),
        "median_sigma": round(float(np.median(away[both])), 4),
        "moved": int(np.count_nonzero(away[both] > FAR_SIGMA)),
    }
    changed = both & (lost > 0)
    for name, fit in fits.items():
        summary[name] = {
            "all": describe_errors(fit, labels, speeds, both),
            "stars that lost pixels": describe_errors(fit, labels, speeds, changed),
            "converged": int(fit.result.converged.sum()),
            "flags": name_flags(fit.flags),
        }
    return summary


def describe_errors(fit, labels, speeds, rows):
    """Robust scatter and root mean square of what labels and velocity are off by."""
    off = np.column_stack([fit.result.labels - labels, fit.result.rv_kms - speeds])[rows]
    errors = np.column_stack([fit.result.errors, fit.result.e_rv])[rows]
    middle = np.median(off, axis=0)
    return {
        "n": len(off),
        "bias": middle.round(3).tolist(),
        "scatter": (1.4826 * np.median(np.abs(off - middle), axis=0)).round(3).tolist(),
        "rms": np.sqrt(np.mean(off**2, axis=0)).round(3).tolist(),
        "pull_width": (1.4826 * np.median(np.abs(off - middle) / errors, axis=0)).round(3).tolist(),
        "pull_beyond_5": np.mean(np.abs(off - middle) / errors > 5, axis=0).round(4).tolist(),
    }


def take_dwarfs(survey, n):
    """The first `n` spectra of single M dwarfs with S/N above 10, and their rows."""
    truth = survey.truth
    fit = (truth["kind"] == "mdwarf") & ~truth["is_binary"] & (truth["snr_i"] > 10)
    rows = np.flatnonzero(fit.to_numpy())[:n]
    return [survey.spectra[int(row)] for row in rows], rows


def try_speed(fitters, raws, rounds):
    """Processor seconds of each, paired and in turns."""
    spent = {name: [] for name in fitters}
    for fitter in fitters.values():
        fitter.fit(raws)
    for turn in range(rounds):
        order = list(fitters.items())[:: 1 if turn % 2 else -1]
        for name, fitter in order:
            began = time.process_time()
            fitter.fit(raws)
            spent[name].append(time.process_time() - began)
    ratios = [on / off for on, off in zip(spent["on"], spent["off"], strict=True)]
    return {
        "n": len(raws),
        "rounds": rounds,
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quickstart", type=Path, help="folder that jaxmdwarf quickstart wrote")
    cases = ("damage", "batches", "clean", "survey", "speed")
    parser.add_argument("--cases", nargs="+", default=cases, choices=cases)
    parser.add_argument("--model", default="transfer", choices=("transfer", "emulator"))
    parser.add_argument("--only", help="kinds of damage whose name holds this text")
    parser.add_argument("--clip-sigma", type=float, default=FitConfig().clip_sigma)
    parser.add_argument("--n", type=int, default=512, help="spectra of survey and speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    model = load_model(options.quickstart / options.model)
    configs = {"off": FitConfig(clip_sigma=0.0), "on": FitConfig(clip_sigma=options.clip_sigma)}
    fitters = {name: Fitter(model, config) for name, config in configs.items()}
    raws, _, _ = make_stars(model, N_STAR)
    result = {}
    if "damage" in options.cases:
        result["damage"] = try_damage(fitters, raws, options.only)
    if "batches" in options.cases:
        result["batches"] = try_batches(model, configs["on"], raws)
    if "clean" in options.cases:
        result["clean"] = try_clean(fitters, model)
    if "survey" in options.cases or "speed" in options.cases:
        survey = load_survey(options.quickstart / "survey")
    if "survey" in options.cases:
        result["survey"] = try_survey(fitters, survey, options.n)
    if "speed" in options.cases:
        spectra = {
            "clean stars": make_stars(model, options.n, seed=5)[0],
            "stars of a survey": take_dwarfs(survey, options.n)[0],
        }
        result["speed"] = {
            name: try_speed(fitters, raws, options.rounds) for name, raws in spectra.items()
        }
    print(json.dumps(result, indent=1))
    if options.save:
        kept = read_result("hostile").get(options.model, {})
        if "damage" in result:
            result["damage"] = {**kept.get("damage", {}), **result["damage"]}
        print(save_result("hostile", {options.model: {**kept, **result}}))


if __name__ == "__main__":
    main()
