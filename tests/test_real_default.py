"""The model of public labelled spectra: their labels, their pixels, and who has seen whom."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxmdwarf.training.labels.isochrones import LabelCutsConfig, isochrone_points
from jaxmdwarf.training.labels.training_set import fit_main_sequence_relation
from jaxmdwarf.workflows.progress import Silent
from jaxmdwarf.workflows.run import open_run

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "experiments").is_dir(), reason="experiments are not part of an installed package"
)


@pytest.fixture
def anchors(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import real_anchors

    return real_anchors


def test_real_anchors_have_labels_on_the_scales_that_are_said(anchors, real_data):
    found, scales = anchors.read_anchors(real_data), anchors.Scales(real_data)
    number = Counter((one.source, one.kind) for one in found)
    # Neither the empty spectrum nor the A star of the folder is an anchor.
    assert number["lamost", "d"] == 18
    assert (number["lepine", "sd"], number["lepine", "esd"], number["lepine", "usd"]) == (9, 7, 9)
    points = isochrone_points(None, LabelCutsConfig((2700.0, 4400.0), mh=(-2.2, 0.6)))
    relations = fit_main_sequence_relation(points)
    labels = anchors.label_anchors(found, scales, relations)
    row = {one.name: number for number, one in enumerate(found)}

    # Stars of Mann et al. (2015) between M0.8 and M1.2 with solar metallicity are that hot.
    solar = scales.mann[scales.mann["[Fe/H]"].abs() < 0.15]
    early = solar[(solar["SpTnum"] == 1.0)]["Teff"].to_numpy()
    here = labels.values[row["M1_+0.0_Dwarf"], 0] - labels.values[row["M1_+0.0_Dwarf"], 2] * 153
    assert here + (labels.subtype[row["M1_+0.0_Dwarf"]] - 1.0) * 158 == pytest.approx(
        np.mean(early), abs=3 * np.std(early) / np.sqrt(early.size)
    )
    # A bin of 0.5 dex is half as far from the mean as its centre; from M5 on it says nothing.
    mh = [labels.values[row[f"M{name}_Dwarf"], 2] for name in ("2_+0.5", "2_-0.5", "5_+0.5")]
    assert mh[0] - mh[1] == pytest.approx(0.61, abs=0.01)
    assert mh[2] == anchors.MEAN_FEH
    # Errors of Teff and [M/H] go together, for a type is hotter the more metals.
    covariance = labels.covariance[row["M2_+0.5_Dwarf"]]
    assert 0.3 < covariance[0, 2] / np.sqrt(covariance[0, 0] * covariance[2, 2]) < 0.8
    assert np.isinf(covariance[[1, 3], [1, 3]]).all()
    # Whole types of the SDSS are later than those of Mann et al. where bands are deep.
    assert labels.subtype[row["M50_SDSS_bochanski2007"]] == pytest.approx(5.0, abs=0.2)
    assert labels.subtype[row["M5_+0.0_Dwarf"]] == pytest.approx(4.4, abs=0.2)
    assert ((labels.values[:, 1] > 4.3) & (labels.values[:, 1] < 5.5)).all()


def test_templates_are_put_on_pixels_of_a_survey_without_a_loss(anchors, real_data):
    archive = np.load(real_data / "pyhammer_KM_templates_5900_9000_vac.npz")
    wave, flux = archive["wave_vac"], archive["M3_+0.0_Dwarf|flux"]
    spectrum = anchors._rebin("M3", wave, flux, error=0.005)
    for low, high in ((6100.0, 6300.0), (7050.0, 7150.0), (8000.0, 8900.0)):
        fine, coarse = (
            np.mean(values[(at > low) & (at < high)])
            for at, values in ((wave, flux), (spectrum.wave_aa, spectrum.flux))
        )
        assert coarse == pytest.approx(fine, rel=3e-3)
    # Subdwarfs come in air: lines of K I are at 7667 and 7701 in vacuum.
    name = "sdM30_LSPMJ1144+1351_lepine2007"
    star = next(one for one in anchors.read_anchors(real_data) if one.name == name)
    near = np.abs(star.spectrum.wave_aa - 7701.0) < 12.0
    deepest = star.spectrum.wave_aa[near][np.argmin(star.spectrum.flux[near])]
    assert abs(deepest - 7701.1) < 2.0


@pytest.mark.parametrize("n_groups", [0, 4])
def test_no_anchor_is_judged_by_a_model_that_has_seen_it(monkeypatch, tmp_path, n_groups):
    monkeypatch.syspath_prepend(str(ROOT))
    from experiments import real_default

    n, asked = 11, []

    def train(emulator, domain, known, config, *, priors, rows):
        return SimpleNamespace(model=frozenset(rows.tolist()))

    def fit(anchors, model, priors=None):
        rows = np.array(anchors)
        asked.append((set(rows.tolist()), model))
        labels = np.repeat(rows[:, None], 4, axis=1) * 1.0
        return real_default.FittedLabels(labels, labels, np.ones((len(rows), 4, 4)), rows, rows)

    monkeypatch.setattr(real_default, "train_supervised", train)
    monkeypatch.setattr(real_default, "fit_each", fit)
    sample = SimpleNamespace(anchors=list(range(n)), domain=None, known=None, relations=())
    with open_run(tmp_path / "run", kind="fits", about={}) as run:
        found, again = (
            real_default.leave_out(sample, None, None, n_groups, run, Silent()) for _ in range(2)
        )
    assert len(asked) == (n_groups or n)
    for fitted, model in asked:
        assert model == set(range(n)) - fitted
    # Each row is that of its anchor, whatever the order of the groups; and kept is kept.
    for labels in (found, again):
        np.testing.assert_array_equal(labels.values[:, 0], np.arange(n))
        assert labels.covariance.shape == (n, 4, 4)
