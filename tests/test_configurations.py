"""What configurations refuse, and that they take what lies just within the limits."""

import math

import pytest

from jaxmdwarf.catalogue.cuts import CutConfig
from jaxmdwarf.catalogue.repeats import RepeatConfig
from jaxmdwarf.catalogue.wide_pairs import PairConfig
from jaxmdwarf.errors import UsageError
from jaxmdwarf.inference.config import FitConfig, FitScheduleConfig
from jaxmdwarf.inference.explore.posterior import SamplingConfig
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.inference.velocity import VelocityGrid
from jaxmdwarf.labels import Label, LabelSpace
from jaxmdwarf.preprocess.clean import CleaningConfig
from jaxmdwarf.preprocess.selection import SelectionConfig
from jaxmdwarf.simulate.gap import DomainGap
from jaxmdwarf.simulate.population import PopulationConfig as SimulatedConfig
from jaxmdwarf.training.cyclestar.config import CycleStarLossesConfig, CycleStarScheduleConfig
from jaxmdwarf.training.cyclestar.constraints import ConstraintWeights
from jaxmdwarf.training.cyclestar.guards import GuardConfig
from jaxmdwarf.training.cyclestar.losses import LossWeights
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)
from jaxmdwarf.training.labels.codistribution import CodistributionConfig
from jaxmdwarf.training.labels.isochrones import LabelCutsConfig
from jaxmdwarf.training.labels.mixture import MixtureConfig
from jaxmdwarf.training.transfer.distil import DistillationConfig
from jaxmdwarf.training.transfer.matched_config import MatchedConfig
from jaxmdwarf.training.transfer.population import PopulationConfig
from jaxmdwarf.training.transfer.supervised import SupervisedConfig
from jaxmdwarf.wavelengths import PixelGrid
from jaxmdwarf.workflows.observed import ObservedConfig
from jaxmdwarf.workflows.validating import ValidationConfig

TINY = 1e-9
SMALL = {  # (class, fields that must come): field -> (what is taken, what is refused)
    (CutConfig, ()): {
        "logg_bounds": ((4.0, 4.1), (4.0, 4.0)),
        "logg_margin": (0.0, -TINY),
        "error_sigma": (TINY, -TINY),
    },
    (RepeatConfig, ()): {
        "min_visits": (2, 1), "bin_width": (TINY, 0.0), "min_in_bin": (TINY, 0.0),
    },
    (PairConfig, ()): {"snr_thresholds": ((5.0, 5.1), (5.0, 5.0))},
    (FitScheduleConfig, ()): {
        "batch_size": (1, 0), "first_pass_iter": (1, 0), "restarts": (0, -1),
    },
    (FitConfig, ()): {
        "chunk_size": (1, 0),
        "clip_sigma": (3.0, 3.0 - TINY), "window_aa": ((6000.0, 6001.0), (6000.0, 6000.0)),
        "priors": (("none",), (1,)),
    },
    (SamplingConfig, ()): {
        "n_chain": (2, 1), "n_warmup": (1, 0), "n_draw": (1, 0), "max_doublings": (1, 0),
        "target_acceptance": (0.5, 0.5 - TINY),
    },
    (LevenbergMarquardt, ()): {
        "max_iter": (1, 0), "tol_sigma": (TINY, 0.0), "trusted_sigma": (TINY, 0.0),
    },
    (VelocityGrid, ()): {"step_kms": (300.0, 300.1), "low_kms": (440.0, 440.1)},
    (CleaningConfig, ()): {"n_clusters": (2, 1), "max_rounds": (1, 0), "min_members": (1, 0)},
    (SelectionConfig, ()): {"keep_missing": (("ruwe", "m_g"), ("rv",))},
    (DomainGap, ()): {"damping": (3.0, 3.0 + TINY), "cosmic_rays": (0.0, -TINY)},
    (SimulatedConfig, ()): {
        "mass_range": ((0.08, 0.70), (0.0799, 0.70)), "g_limits": ((12.0, 12.1), (12.0, 12.0)),
        "k_dwarf_fraction": (0.88, 0.9),
    },
    (CycleStarScheduleConfig, ()): {
        "steps": (1, 0), "report_every": (1, 0), "decay": (TINY, 0.0), "validation_rows": (1, 0),
        "patience": (1, 0), "warmup_steps": (0, -1), },
    (CycleStarLossesConfig, ()): {
        "r1": (0.0, -TINY), "instance_noise": (0.0, -TINY), "split_noise": (0.0, -TINY),
        },
    (ConstraintWeights, ()): dict.fromkeys(("identity", "latents", "slopes"), (0.0, -TINY)),
    (GuardConfig, ()): {"critic_loss": ((1.0, 1.1), (1.0, 1.0))},
    (LossWeights, ()): dict.fromkeys(("synth", "obs", "adversarial"), (0.0, -TINY)),
    (NetworkConfig, ()): {"rank": (1, 0)},
    (OptimiserConfig, ()): {
        "learning_rate": (TINY, 0.0), "largest_update": (TINY, 0.0), "batch_size": (1, 0),
        "averaging": (1 - TINY, 1.0),
    },
    (ScheduleConfig, ()): {
        "steps": (1, 0), "report_every": (1, 0), "patience": (1, 0), "warmup_steps": (0, -1),
    },
    (EmulatorConfig, ()): {"validation_fraction": (TINY, 0.0)},
    (CodistributionConfig, ()): {
        "n_training": (1, 0), "min_coverage": (1.0, 1 + TINY),
        "reference_errors": ((0.0, 0.0), (-TINY, 1.0)),
    },
    (LabelCutsConfig, ()): {
        "teff": ((3000.0, 3001.0), (3000.0, 3000.0)), "logg": ((4.0, 5.0), (4.0, 4.0)),
        "mh": ((0.0, 0.1), (0.1, 0.0)), "age_gyr": (TINY, 0.0),
    },
    (MixtureConfig, ()): {
        "n_components": ((1,), (2, 0)), "width": ((TINY,) * 4, (1.0, 1.0, 0.0, 1.0)),
    },
    (DistillationConfig, ()): {
        "n_spectra": (20, 19), "n_components": (1, 0), "uniform_share": (1.0, 1 + TINY),
    },
    (MatchedConfig, ()): {
        "n_passes": (1, 0), "max_spectra": (1, 0), "strengths": ((TINY,), ()),
        "max_resampled": (30, 29), "n_nuisance": (0, -1), "n_resample": (0, -1), "n_fold": (2, 1),
        "outside": (TINY, 0.0), "logg_sigma": (TINY, 0.0), "alpha_sigma": (TINY, 0.0),
        "keep": (1.0, 1 + TINY),
    },
    (PopulationConfig, ()): {
        "n_direction": (1, 0), "max_spectra": (1, 0), "max_expensive": (1, 0), "max_labels": (1, 0),
        "least_spectra": (1, 0), "beyond": (1 - TINY, 1.0), "width": (TINY, 0.0),
        "least_limit": (TINY, 0.0),
    },
    (SupervisedConfig, ()): {
        "n_passes": (1, 0), "n_nuisance": (0, -1), "strength": (TINY, 0.0), "outside": (TINY, 0.0),
        "fit_error": ((60.0, TINY), (60.0, 0.0)),
    },
    (ObservedConfig, ()): {"max_spectra": (1, 0), "chunk_size": (1, 0)},
    (ValidationConfig, ()): {
        "columns": ((("e_teff", "x"),), (("teff_e", "x"),)), "kind": ("other", "nothing known"),
    },
    (PixelGrid, (("kind", "log"), ("start_aa", 6000.0), ("step", 1e-4), ("n_pix", 100))): {
        "start_aa": (TINY, 0.0), "step": (TINY, 0.0),
        "n_pix": (2, 1),
    },
    (Label, (("name", "c_o"), ("lower", 0.0), ("upper", 1.0))): {
        "upper": (TINY, 0.0), "column": ("C_O", "2CO"),
    },
    (LabelSpace, (("names", ("a", "b")), ("units", ("K", "")), ("lower", (0.0, 0.0)),
                  ("upper", (1.0, 1.0)))): {
        "upper": ((TINY, 1.0), (0.0, 1.0)), "lower": ((-1e300, 0.0), (-math.inf, 0.0)),
        "names": (("a", "c"), ("a", "a")), "units": (("", ""), ("K",)),
    },
}  # fmt: skip
CASES = [
    pytest.param(made, dict(needed), name, *pair, id=f"{made.__name__}.{name}")
    for (made, needed), fields in SMALL.items()
    for name, pair in fields.items()
]


@pytest.mark.parametrize(("made", "needed", "name", "taken", "refused"), CASES)
def test_a_limit_is_where_it_is(made, needed, name, taken, refused):
    made(**{**needed, name: taken})
    with pytest.raises(UsageError):
        made(**{**needed, name: refused})


def test_what_is_off_may_be_off():
    """None and 0 switch things off where that is said."""
    FitConfig(clip_sigma=0.0)
    CutConfig(error_sigma=None, max_teff=None, min_age_gyr=None)
    NetworkConfig(rank=None)
    MatchedConfig(n_fold=0)
    SelectionConfig(max_ruwe=None, m_g=None)
    for low, high in ((-1e-3, 0.5), (0.5, 1.0 + 1e-9)):
        with pytest.raises(UsageError):
            CodistributionConfig(min_coverage=low if low < 0 else high)
    with pytest.raises(UsageError):
        DistillationConfig(uniform_share=-TINY)
    with pytest.raises(UsageError):
        EmulatorConfig(validation_fraction=1.0)
    with pytest.raises(UsageError):
        OptimiserConfig(averaging=-TINY)
    with pytest.raises(UsageError):
        SamplingConfig(target_acceptance=1.0)
    with pytest.raises(UsageError):
        PopulationConfig(beyond=0.0)
    with pytest.raises(UsageError):
        MatchedConfig(keep=0.0)
    with pytest.raises(UsageError):
        SimulatedConfig(mass_range=(0.3, 0.3))
    with pytest.raises(UsageError):
        SimulatedConfig(mass_range=(0.1, 0.7001))
    with pytest.raises(UsageError):
        DomainGap(damping=math.nan)
