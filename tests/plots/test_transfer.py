"""Figures of the transfer show the numbers that they were given and survive odd input."""

import numpy as np

from jaxmdwarf.diagnostics.embedding import PairMap
from jaxmdwarf.plots.domains import plot_domains
from jaxmdwarf.plots.style import render_png
from jaxmdwarf.plots.transfer import (
    plot_methods,
    plot_residuals,
    plot_training,
    plot_transferred_fit,
)

WAVE = np.linspace(6000.0, 8900.0, 300)


def lines_of(axis):
    return {line.get_label(): line for line in axis.lines}


def test_training_curves_are_the_records():
    records = [
        {"step": step, "rec_synth": 1.0 / step, "val_rec_synth": 2.0 / step, "adv_obs": 0.7}
        for step in (10, 20, 40)
    ]
    records[1]["val_shared_accuracy"] = 0.6
    records[2]["rec_obs"] = float("nan")
    figure = plot_training(records)
    reconstruction, adversarial, scores = figure.axes
    line = lines_of(reconstruction)["synth → synth"]
    np.testing.assert_allclose(line.get_xdata(), [10, 20, 40])
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.05, 0.025])
    assert reconstruction.get_yscale() == "log"
    assert "obs → obs" not in lines_of(reconstruction)
    assert "generator, obs" in lines_of(adversarial)
    np.testing.assert_allclose(lines_of(scores)["telling shared latents apart"].get_ydata(), [0.6])


def test_residual_histograms_count_every_star_and_state_their_mean():
    rng = np.random.default_rng(0)
    per_star = {"none": rng.normal(1.3, 0.1, 400), "transfer": rng.normal(1.0, 0.1, 400)}
    per_star["none"][:3] = 50.0, np.nan, np.nan
    profiles = {name: np.full(300, 1.0) for name in per_star}
    figure = plot_residuals(WAVE, per_star, profiles, noise_level=0.8)
    counts = [patch.get_xy() for patch in figure.axes[0].patches]
    assert len(counts) == 2
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert f"none: {np.nanmean(per_star['none']):.3f}" in texts


def test_methods_are_bars_of_their_values():
    values = {
        "none": {"teff": 90.0, "accuracy": 0.97},
        "transfer": {"teff": -8.0, "accuracy": np.nan},
        "oracle": {"teff": 1.0},
    }
    figure = plot_methods(
        values, errors={"none": {"teff": 3.0}}, limits={"teff": 12.0}, names={"accuracy": "told"}
    )
    teff, accuracy = figure.axes
    assert [bar.get_width() for bar in teff.patches] == [90.0, -8.0, 1.0]
    assert accuracy.get_title() == "told"
    wanted = [line.get_xdata()[0] for line in teff.lines if line.get_linestyle() == "--"]
    assert sorted(wanted) == [-12.0, 12.0]


def test_residual_panels_are_in_sigma_and_bad_pixels_are_gaps():
    model, sigma = 1.0 + 0.1 * np.sin(WAVE / 50), np.full(300, 0.02)
    sigma[100:110] = np.nan
    figure = plot_transferred_fit(
        WAVE,
        model + 0.04,
        sigma,
        {"theory": model, "transferred": model + 0.03},
        masked=WAVE > 8800,
    )
    for axis, expected in zip(figure.axes[1:], (2.0, 0.5), strict=True):
        values = next(line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 300)
        assert np.isnan(values[100:110]).all()
        np.testing.assert_allclose(np.delete(values, np.s_[100:110]), expected)
        assert f"{expected:.3f} σ" in axis.get_title(loc="left")


def test_domain_maps_show_every_point_of_both_sets():
    rng = np.random.default_rng(1)
    one = PairMap(rng.normal(size=(60, 2)), rng.normal(size=(50, 2)), 0.48)
    figure = plot_domains({"spectra": one, "shared latents": one, "transferred": one})
    assert len(figure.axes) == 3
    assert len(figure.axes[0].collections[0].get_offsets()) == 110
    assert "0.48" in figure.axes[0].get_title()


def test_figures_can_be_drawn_of_next_to_nothing():
    figures = [
        plot_residuals(WAVE, {}, {}),
        plot_methods({}),
        plot_methods({"none": {"teff": float("nan")}}),
        plot_transferred_fit(WAVE, np.ones(300), np.full(300, np.nan), {"theory": np.ones(300)}),
        plot_domains({}),
    ]
    for n in (0, 1, 3):
        values = {"none": np.full(n, np.nan), "transfer": np.full(n, 1.0)}
        pixels = {name: np.full(300, np.nan) for name in values}
        figures += [
            plot_training([{"step": 1, "rec_synth": 0.0, "adv_obs": None}] * n),
            plot_residuals(WAVE, values, pixels),
            plot_domains({"x": PairMap(np.zeros((n, 2)), np.zeros((n, 2)), float("nan"))}),
        ]
    for figure in figures:
        assert render_png(figure, dpi=40).startswith(b"\x89PNG")
