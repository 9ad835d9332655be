"""What a quickstart shows of itself: figures, tables, and the page that holds them."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from jaxmdwarf.io.atomic import write_atomically
from jaxmdwarf.io.models import load_model
from jaxmdwarf.io.provenance import gather_provenance
from jaxmdwarf.io.rejects import read_rejects
from jaxmdwarf.io.spectra.readers import read_rows
from jaxmdwarf.io.tables import read_table
from jaxmdwarf.plots.domains import plot_domains
from jaxmdwarf.plots.emulator import plot_emulator_training
from jaxmdwarf.plots.kiel import KielSample, plot_kiel
from jaxmdwarf.plots.processing import plot_processing
from jaxmdwarf.plots.snr import plot_snr
from jaxmdwarf.plots.style import describe_quantity, render_png
from jaxmdwarf.plots.transfer import plot_residuals, plot_training, plot_transferred_fit
from jaxmdwarf.preprocess.continuum import PAPER_SIGMA_AA
from jaxmdwarf.preprocess.masks import mask_for
from jaxmdwarf.quality import FLAG_TABLE, HARMFUL_FLAGS, find_good
from jaxmdwarf.quickstart import findings
from jaxmdwarf.quickstart.products import (
    TRANSFER,
    Outcome,
    Products,
    QuickstartConfig,
    keep_paths,
    list_variants,
)
from jaxmdwarf.report.page import Bars, Picture, Report, Section, Table, Text, write_report
from jaxmdwarf.workflows.catalogue_figures import CAPTIONS
from jaxmdwarf.workflows.cataloguing import Beside
from jaxmdwarf.workflows.judging import predict_fitted
from jaxmdwarf.workflows.methods.cyclestar import LOG_NAME
from jaxmdwarf.workflows.validating import Validation
from jaxmdwarf.workflows.validation_report import plot_validation, pull_table, recovery_table

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

Variants: TypeAlias = "dict[str, tuple[Path, pd.DataFrame]]"
"""By name: the model directory, and the rows of its fit that are compared."""

_VARIANT_NAMES = {
    "none": "theory's emulator, no transfer",
    "transfer": "theory with the transfer",
    "oracle": "nature's own emulator",
}

N_REJECTS_SHOWN = 12
NOISE_ALONE = float(np.sqrt(2 / np.pi))
"""Mean size of a residual in stated errors where these are right and nothing else is wrong."""

WANTED_SNR, WANTED_TEFF = 40.0, 3450.0
"""The spectrum on show: a typical M dwarf, bright enough to see its bands."""


def write_quickstart_report(outcome: Outcome) -> None:
    """Draw the figures of a run whose stages are done, and write its report."""
    products, config, metrics = outcome.products, outcome.config, outcome.metrics
    catalogue, shown = read_table(products.catalogue), outcome.shown
    pictures = _draw(outcome, catalogue)
    timing = metrics["timing_s"]
    provenance = gather_provenance()
    emulator, counts = metrics["emulator"], metrics["counts"]
    gap = "full" if config.gap == type(config.gap)() else ", ".join(config.gap.active) or "none"
    report = Report(
        title="From spectra to a catalogue: a simulated survey",
        lead=f"{counts['input']} spectra of simulated M dwarfs, written as survey files, were "
        "read, measured and fitted with an emulator, and the catalogue is compared with the truth.",
        warning="Everything here is simulated: the emulator was trained on the package's own "
        f"theory, the spectra come from its own nature (domain gap: {gap}). The numbers tell how "
        "the method works, not how real stars are.",
        tiles=(
            (str(counts["catalogue"]), f"spectra in the catalogue, {counts['rejected']} rejected"),
            (f"{emulator['eq1_median']:.2%}", "error of the emulator, of the flux, median"),
            (f"{metrics['fit']['converged_fraction']:.1%}", "of the fits converged"),
            (
                f"{metrics['fit']['spectra_per_s']:.0f} /s",
                "spectra fitted, compiling apart",
            ),
            *_label_tiles(shown),
            (f"{sum(timing.values()):.0f} s", "for all steps"),
        ),
        sections=[
            findings.write_findings(findings.list_findings(metrics, shown, catalogue)),
            _run_section(config, metrics, gap),
            _emulator_section(emulator, pictures),
            Section("A spectrum and its fit", [pictures["processing"], pictures["spectrum"]]),
            _recovery_section(outcome, pictures),
            _gap_section(metrics["transfer"], pictures),
            Section(
                "Are the errors honest?",
                [
                    Text(
                        "A pull is (measured − true) / stated error. Where theory describes "
                        "nature, pulls have mean 0 and width 1; a domain gap shows as an offset, "
                        "and as a width that grows with S/N because no error bar knows of it."
                    ),
                    Table(*pull_table(shown)),
                    pictures["pulls"],
                ],
            ),
            Section(
                "The stars",
                [
                    findings.write_sample(metrics),
                    *(pictures[name] for name in ("snr", *CAPTIONS) if name in pictures),
                ],
            ),
            findings.write_worst(findings.choose_worst(catalogue), pictures.get("worst")),
            _rejects_section(products, counts),
            _flags_section(catalogue),
            _products_section(products),
        ],
        footer=f"{provenance.as_text()['creator']} · {provenance.created} · "
        f"{provenance.command} · {provenance.as_text()['packages']}",
    )
    write_report(report, products.report)


def _draw(outcome: Outcome, catalogue: pd.DataFrame) -> dict[str, Picture]:
    products, shown, truth = outcome.products, outcome.shown, outcome.truth
    variants: Variants = {
        name: (variant.model, keep_paths(read_table(variant.fit), outcome.held_out))
        for name, variant in list_variants(products, outcome.config).items()
    }
    compared = variants[outcome.final][1]
    chosen = _choose_example(compared, shown)
    drawn: dict[str, tuple[Figure, str]] = {
        "processing": _plot_processing(
            variants[outcome.final][0], compared.iloc[int(shown.rows[chosen])]
        ),
        "spectrum": _plot_example(variants, outcome.final, truth, shown, chosen),
        "kiel": (
            _plot_kiel(compared, truth, shown),
            "Gravity against temperature, as measured and as simulated, for the compared spectra "
            "with S/N above 20 in r (all, if there are few).",
        ),
        "snr": (
            plot_snr(catalogue["SNRr"].to_numpy(float), catalogue["SNRi"].to_numpy(float)),
            "Signal-to-noise per pixel of the spectra in the catalogue. As in LAMOST, most are "
            "faint in r.",
        ),
        **plot_validation(shown),
        **_plot_transfer(outcome),
        **_plot_emulator(products),
    }
    worst = findings.choose_worst(catalogue)
    if len(worst):
        drawn["worst"] = (
            findings.plot_worst(load_model(variants[outcome.final][0]), worst),
            "In grey the spectrum at rest, in orange the model, both divided by the "
            "pseudo-continuum; what is not fitted is left open. Vertical axes show 99 % of the "
            "pixels.",
        )
    pictures = {
        name: Picture(render_png(figure), caption, name)
        for name, (figure, caption) in drawn.items()
    }
    files = {name: products.emulator / f"{name}.png" for name in _EMULATOR_CAPTIONS}
    captions = {**CAPTIONS, **_EMULATOR_CAPTIONS}
    for name, file in {**Beside.name(products.value_added).figures, **files}.items():
        # That of the catalogue holds more stars, and no truth beside them.
        if name not in pictures and file.is_file():
            pictures[name] = Picture(file.read_bytes(), captions[name], name)
    for name, picture in pictures.items():
        with write_atomically(products.figures / f"{name}.png") as temporary:
            temporary.write_bytes(picture.png)
    return pictures


def _plot_transfer(outcome: Outcome) -> dict[str, tuple[Figure, str]]:
    """Figures 6 to 8 of the paper, as far as there is something to show."""
    judged, products = outcome.judgements, outcome.products
    titles = {name: _VARIANT_NAMES.get(name, name) for name in judged}
    figures = {
        "residuals": (
            plot_residuals(
                next(iter(judged.values())).grid.wave_aa,
                {titles[name]: one.residual.per_star for name, one in judged.items()},
                {titles[name]: one.residual.per_pixel for name, one in judged.items()},
                noise_level=NOISE_ALONE,
            ),
            "Residuals of the best fits of the same stars (figure 8 of the paper), by star and by "
            "pixel.",
        )
    }
    if outcome.maps:
        figures["domains"] = (
            plot_domains({titles[name]: one for name, one in outcome.maps.items()}),
            "t-SNE of the brightest compared spectra and of the models that were fitted to them, "
            "with the same noise and gaps (figure 7 of the paper).",
        )
    records = _read_log(products.transfer / LOG_NAME) if TRANSFER in judged else []
    if records:
        figures["training"] = (
            plot_training(records),
            "Training of the networks (figure 6 of the paper).",
        )
    return figures


def _plot_emulator(products: Products) -> dict[str, tuple[Figure, str]]:
    """How the training of the emulator went, where its log is there."""
    records = _read_log(products.emulator / "training.jsonl")
    if not records:
        return {}
    step, loss, held = (
        np.array([one[name] for one in records], float) for name in ("step", "loss", "held_loss")
    )
    return {
        "emulator_training": (
            plot_emulator_training(step, np.sqrt(loss), held),
            "Distance of the emulator from theory's spectra while it learned, as a share of how "
            "much these differ among each other. Held-out spectra that become worse while the "
            "others become better tell of too few models.",
        )
    }


def _read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a training; none where the method keeps none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


_EMULATOR_CAPTIONS = {
    "reconstruction": "The error of each held-out spectrum over the label space, and its "
    "distribution (figure 3 of the paper).",
    "pixel_error": "One-sigma error of the emulator in each pixel; it enters the weights of every "
    "fit. Shaded windows are not fitted.",
}


def _choose_example(compared: pd.DataFrame, shown: Validation) -> int:
    """Which of the compared rows is nearest to what one wants to see."""
    teff = compared["Teff"].to_numpy(float)[shown.rows]
    distance = np.abs(np.log(np.maximum(shown.snr, 1e-3) / WANTED_SNR)) + np.abs(
        (teff - WANTED_TEFF) / 300.0
    )
    return int(np.nanargmin(distance))


def _plot_processing(folder: Path, row: pd.Series) -> tuple[Figure, str]:
    """A spectrum on its way to its fit, as the model of the folder has it."""
    preprocessing = load_model(folder).preprocessing
    figure = plot_processing(
        read_rows([row["path"]], [row["spectrum"]])[0],
        rv_kms=float(row["RV"]),
        masks=preprocessing.masks_aa,
        sigma_aa=preprocessing.sigma_aa or PAPER_SIGMA_AA,
        title=f"obsid {row['obsid']}, S/N {row['SNRr']:.0f} in r, RV {row['RV']:.0f} km/s",
    )
    return figure, (
        "How a spectrum comes to be fitted (figure 5 of the paper): flux in the rest frame with "
        "its pseudo-continuum, the error, and both divided by the pseudo-continuum. Windows in "
        "grey are left out of it."
    )


def _plot_example(
    variants: Variants, final: str, truth: pd.DataFrame, shown: Validation, chosen: int
) -> tuple[Figure, str]:
    """A spectrum with the models that were fitted to it, by its number among the compared ones."""
    row = variants[final][1].iloc[int(shown.rows[chosen])]
    known = truth.iloc[int(shown.reference_rows[chosen])]
    fits = {}
    for name, (folder, table) in variants.items():
        if name in ("none", final):
            model: Any = load_model(folder)
            fitted = predict_fitted(model, table[table["path"] == row["path"]])
            fits[_VARIANT_NAMES.get(name, name)] = fitted.model[0]
    ivar = np.asarray(fitted.observed.ivar[0], np.float64)
    sigma = np.where(ivar > 0, 1 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), np.nan)
    flux = np.asarray(fitted.observed.flux[0], np.float64)
    # Beyond the fitted range lie pixels that only serve shifts.
    inside = (model.grid.wave_aa >= 6000.0) & (model.grid.wave_aa <= 8900.0)
    if not inside.any():
        inside = np.ones(model.grid.n_pix, bool)
    figure = plot_transferred_fit(
        model.grid.wave_aa[inside],
        flux[inside],
        sigma[inside],
        {name: np.asarray(values, np.float64)[inside] for name, values in fits.items()},
        masked=np.asarray(mask_for(model.grid, model.preprocessing.masks_aa))[inside],
        title=f"obsid {row['obsid']}, S/N {row['SNRr']:.0f} in r and {row['SNRi']:.0f} in i, "
        f"reduced χ² {row['chi2_red']:.2f}",
    )
    parts = []
    for name in (*model.label_space.names, "rv"):
        quantity = describe_quantity(name)
        true = known["rv_kms" if name == "rv" else name]
        error = quantity.write(row[quantity.error_column])
        parts.append(
            f"{quantity.symbol} {quantity.write(row[quantity.column], unit=False)} ± {error} "
            f"(true {quantity.write(true, unit=False)})"
        )
    return figure, "Fitted: " + ", ".join(parts) + "."


def _plot_kiel(catalogue: pd.DataFrame, truth: pd.DataFrame, shown: Validation) -> Figure:
    bright = shown.snr > 20
    if bright.sum() < 50:
        bright = np.ones(shown.snr.size, bool)
    rows, known = shown.rows[bright], shown.reference_rows[bright]
    return plot_kiel(
        {
            "measured": KielSample(
                *(catalogue[name].to_numpy(float)[rows] for name in ("Teff", "Logg", "M_H"))
            ),
            "true": KielSample(
                *(truth[name].to_numpy(float)[known] for name in ("teff", "logg", "mh"))
            ),
        }
    )


def _label_tiles(shown: Validation) -> list[tuple[str, str]]:
    tiles = []
    for name in ("teff", "mh"):
        if name in shown.comparisons:
            quantity, found = describe_quantity(name), shown.comparisons[name].recovery
            digits = 0 if name == "teff" else 2
            tiles.append(
                (
                    f"{found.bias:+.{digits}f} ± {found.scatter:.{digits}f} {quantity.unit}",
                    f"bias and scatter of {quantity.symbol}, S/N above 5",
                )
            )
    return tiles


def _run_section(config: QuickstartConfig, metrics: dict[str, Any], gap: str) -> Section:
    rows = [
        ("Survey", f"{config.n_spectra} spectra, seed {config.seed}"),
        ("Domain gap", gap),
        ("Model grid", f"{config.n_grid} theoretical spectra, trained on 4 of 5"),
        ("Emulator", f"{metrics['emulator']['steps']} steps"),
        ("Transfer to the observed domain", config.transfer),
    ]
    timing = metrics["timing_s"]
    bars = [
        (name, seconds, f"{seconds:.1f} s") for name, seconds in timing.items() if name != "report"
    ]
    return Section(
        "What was run",
        [
            Text(
                "Stars are drawn from the main sequence and observed by a simulated spectrograph; "
                "an emulator (The Payne) learns theoretical spectra; each survey file is read, "
                "brought to the rest frame, normalised and fitted for four labels and the "
                "velocity; Halpha, TiO5 and the spectral type are measured without a model; all "
                "ends in catalogue.fits and is compared with the truth."
            ),
            Table(("setting", "value"), rows, text_columns=(1,)),
            Bars(bars, "Time of each step"),
        ],
    )


def _emulator_section(emulator: dict[str, Any], pictures: dict[str, Picture]) -> Section:
    rows = [
        ("held-out spectra", str(emulator["n_held_out"])),
        ("median error", f"{emulator['eq1_median']:.3%}"),
        ("95th percentile", f"{emulator['eq1_p95']:.3%}"),
        ("largest", f"{emulator['eq1_max']:.3%}"),
    ]
    return Section(
        "How well the emulator follows theory",
        [
            Text(
                "The emulator is a network that gives theory's spectrum at any labels. It is "
                "tested on theoretical spectra that it did not learn from. The error of a spectrum "
                "is |emulated - computed| / computed, averaged over its pixels (the paper's "
                "equation 1)."
            ),
            Table(("", "value"), rows),
            *(
                pictures[name]
                for name in ("emulator_training", "reconstruction", "pixel_error")
                if name in pictures
            ),
        ],
    )


def _recovery_section(outcome: Outcome, pictures: dict[str, Picture]) -> Section:
    config, validations = outcome.config, outcome.validations
    notes = "; ".join(note for note in outcome.shown.notes if " against " not in note)
    blocks: list[Any] = [Text(f"Compared: {notes}.")]
    if config.transfer != "none":
        blocks.append(
            Text(
                "Only spectra that the transfer was not trained on are compared; it never saw a "
                "label of any of them. Where the catalogue's labels say little of a faint star, "
                "they lean on what the training labels say of all (priors)."
            )
        )
    elif config.gap.active:
        blocks.append(
            Text(
                "Theory and nature differ here on purpose, and nothing was done about it yet: "
                "bias and scatter are those of a fit in the synthetic domain.",
                note=True,
            )
        )
    for name, one in validations.items():
        title = _VARIANT_NAMES.get(name, name)
        caption = title[:1].upper() + title[1:] if len(validations) > 1 else ""
        blocks.append(Table(*recovery_table(one), caption=caption))
    return Section("Labels against the truth", [*blocks, pictures["recovery"], pictures["by_snr"]])


def _gap_section(transfer: dict[str, Any], pictures: dict[str, Picture]) -> Section:
    """How far the models are from the spectra, before and after."""
    measures = (
        ("residual_sigma", "mean residual, in stated errors", ".3f"),
        ("residual_sigma_snr20", "the same, S/N above 20", ".3f"),
        ("classifier_accuracy", "accuracy of a classifier, model or spectrum", ".1%"),
    )
    names = list(transfer["residual_sigma"])
    rows = [
        (title, *(_write(transfer[key][name], form) for name in names))
        for key, title, form in measures
    ]
    return Section(
        "The gap between models and spectra",
        [
            Text(
                f"Noise alone leaves a residual of {NOISE_ALONE:.2f} stated errors (0.91 where "
                "inverse variances are stated 1.3 times too large, as here); a classifier that "
                "cannot tell noisy models from spectra is right half of the time."
            ),
            Table(("", *(_VARIANT_NAMES.get(name, name) for name in names)), rows),
            *(pictures[name] for name in ("residuals", "domains", "training") if name in pictures),
        ],
    )


def _write(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "too few"


def _rejects_section(products: Products, counts: dict[str, int]) -> Section:
    rejects = read_rejects(products.rejects)
    blocks: list[Any] = [
        Text(
            f"{counts['input']} files in = {counts['catalogue']} in the catalogue + "
            f"{counts['rejected']} rejected; none is lost."
        )
    ]
    if rejects:
        # Numbers differ from file to file, reasons do not.
        kinds = Counter(re.sub(r"\d+(\.\d+)?", "…", _drop_path(one)) for one in rejects)
        if len(kinds) < len(rejects):
            rows = [(reason, str(number)) for reason, number in kinds.most_common()]
            blocks.append(Table(("reason", "files"), rows, "By reason"))
        rows3 = [
            (one.path.rsplit("/", 1)[-1], _drop_path(one), one.remedy)
            for one in rejects[:N_REJECTS_SHOWN]
        ]
        blocks.append(Table(("file", "reason", "remedy"), rows3, text_columns=(1, 2)))
        if len(rejects) > N_REJECTS_SHOWN:
            left = len(rejects) - N_REJECTS_SHOWN
            blocks.append(Text(f"{left} more are in {products.rejects.name}."))
    return Section("Rejected files", blocks)


def _drop_path(reject: Any) -> str:
    return reject.reason.removeprefix(f"{reject.path}: ")


def _flags_section(catalogue: pd.DataFrame) -> Section:
    flags = catalogue["flags"].to_numpy(np.int64)
    rows = []
    for bit, note in FLAG_TABLE.items():
        number = int(np.count_nonzero(flags & int(bit)))
        share = f"{number / max(flags.size, 1):.1%}"
        kept = "left out" if bit & HARMFUL_FLAGS else "kept"
        if number:
            rows.append(
                (str(bit.name), str(int(bit)), note.meaning, str(number), share, kept, note.advice)
            )
    good = int(np.count_nonzero(find_good(flags)))
    return Section(
        "Flags",
        [
            Text(
                f"{good} of {flags.size} spectra carry no flag that makes them unfit for use. A "
                "row may carry several. The column of comparisons tells whether it enters those of "
                "this page, the last what to do about it."
            ),
            Table(
                ("name", "bit", "meaning", "spectra", "share", "comparisons", "advice"),
                rows,
                text_columns=(2, 5, 6),
            ),
        ],
    )


def _products_section(products: Products) -> Section:
    rows = [
        (products.catalogue.name, "the catalogue: labels, velocity, errors, flags, type, activity"),
        (products.rejects.name, "files that could not be used, why, and what to do"),
        (
            products.value_added.name,
            "the same rows with total errors from repeat visits, stars and cuts",
        ),
        (products.metrics.name, "the numbers of this page and more, for machines"),
        ("figures/", "the figures of this page"),
        ("survey/", "the simulated files, and truth.parquet"),
        (products.theory_grid.name, "the theoretical spectra"),
        ("emulator/", "the model of theory"),
        (
            "transfer/",
            "theory carried into the observed domain: 'jaxmdwarf fit FILES --model transfer "
            "--out T.fits' uses it",
        ),
    ]
    return Section("What is in the folder", [Table(("name", "holds"), rows, text_columns=(1,))])
