"""What surveys of named seeds draw, as numbers to compare; run it to write them anew.

    python -m tests.simulate.seeded_survey

Figures in the pages, committed results and models that were trained on simulated surveys name the
seeds of these. Who changes what a seed draws has to make them again, and says so by this file.
"""

import json
from pathlib import Path

import numpy as np

from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.survey import SurveyConfig, paper_grid_labels, sample_grid_labels
from jaxmdwarf.simulate.survey import simulate_survey as draw

NUMBERS = Path(__file__).with_suffix(".json")
_WAVE_AA = np.exp(np.arange(np.log(5850.0), np.log(9150.0), 2.7e-5))


def summarise(values):
    """Mean and a mean with signs that go with the place; of texts how often each is there."""
    values = np.asarray(values)
    if values.dtype.kind not in "iufb":
        names, counts = np.unique(values, return_counts=True)
        return dict(zip(map(str, names), counts.tolist(), strict=True)) if len(names) < 20 else {
            "first": str(values[0]), "last": str(values[-1]), "different": len(names)
        }  # fmt: skip
    values = values.astype(np.float64)
    known = np.isfinite(values)
    weight = 1 + np.cos(1.7 * np.arange(values.size).reshape(values.shape))
    filled = np.where(known, values, 0)
    told = filled.mean(), np.abs(filled).mean(), (weight * filled).mean(), known.mean()
    return [float(f"{one:.7g}") for one in told]


def fake_flux(labels):
    """A black body with a comb of lines: a stand-in for the synthesis."""
    teff = np.asarray(labels)[:, :1]
    planck = 1.1910e27 * np.pi / _WAVE_AA**5 / np.expm1(1.4388e8 / (_WAVE_AA * teff))
    return (planck * (1 - 0.3 * np.sin(np.log(_WAVE_AA) * 1500.0) ** 8)).astype(np.float32)


def describe():
    """All numbers, by table and column."""
    survey = draw(SurveyConfig(n_spectra=900, seed=5))
    tables = {
        "stars": survey.population.stars,
        "visits": survey.population.visits,
        "pairs": survey.wide_pairs(),
        "truth": survey.truth(),
        "references": survey.references(),
        "plans": {"plan": survey.plan_ids()},
        "gaia": survey.gaia(),
        "grid": {"labels": sample_grid_labels(64, seed=3), "paper": paper_grid_labels()},
    }
    found = {
        table: {name: summarise(values) for name, values in columns.items()}
        for table, columns in tables.items()
    }
    small = draw(SurveyConfig(n_spectra=24, seed=8, gap=DomainGap.full()))
    columns = ("flux", "ivar", "mask", "noiseless", "snr_r", "snr_i", "true_snr_r", "true_snr_i")
    batches = list(small.batches(fake_flux, _WAVE_AA))
    found["spectra"] = {
        name: summarise(np.concatenate([getattr(one, name) for one in batches])) for name in columns
    }
    return found


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps(describe(), indent=1) + "\n")
