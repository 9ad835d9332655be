"""Experiments: one short file each, a frozen dataclass that tells its whole story.

Run one from the source tree: ``jaxmdwarf run no_gap --out DIR``, or ``python -m experiments``.
"""

EXPERIMENTS: dict[str, tuple[str, str]] = {
    "no_gap": (
        "experiments.no_gap:NoGapConfig",
        "are the errors honest where theory is right?",
    ),
    "simulated_survey": (
        "experiments.simulated_survey:SimulatedSurveyConfig",
        "every transfer on a survey whose truth is known",
    ),
    "gap_ablation": (
        "experiments.gap_ablation:GapAblationConfig",
        "which cause of the gap between theory and nature costs what?",
    ),
    "cyclestar_designs": (
        "experiments.cyclestar_designs:CycleStarDesignsConfig",
        "why adversarial transfer drifts, and what holds it",
    ),
    "repeat_visits": (
        "experiments.repeat_visits:RepeatVisitsConfig",
        "do total errors cover the truth in every bin of S/N?",
    ),
    "real_lamost": (
        "experiments.real_lamost:RealLamostConfig",
        "real LAMOST files through the model that comes with the package",
    ),
    "real_default": (
        "experiments.real_default:RealDefaultConfig",
        "the model that comes with the package, made and judged on real spectra",
    ),
    "lamost_dr10": (
        "experiments.lamost_dr10:LamostDr10Config",
        "the paper's own run, on data of your own",
    ),
}
"""Where each experiment is (loaded when it is asked for) and what it shows.

Each is a frozen dataclass with defaults and a method ``run(progress)`` that returns numbers.
"""
