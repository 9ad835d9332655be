"""Numbers that the pages state are those of the code: each with the words that state it."""

import math
from pathlib import Path

import pytest

from jaxmdwarf.catalogue.cuts import CutConfig
from jaxmdwarf.catalogue.gaia_velocities import GaiaVelocityConfig
from jaxmdwarf.catalogue.repeats import _MAD_TO_SIGMA, RepeatConfig
from jaxmdwarf.catalogue.wide_pairs import PairConfig
from jaxmdwarf.inference import drift, results
from jaxmdwarf.inference.config import FitConfig
from jaxmdwarf.inference.fitter import HEADER_TOLERANCE_KMS
from jaxmdwarf.inference.solvers.native import LevenbergMarquardt
from jaxmdwarf.io.packs.layout import WIDTH_STEP
from jaxmdwarf.io.parts import PART_ROWS
from jaxmdwarf.measure.halpha import ACTIVE_ABOVE_AA
from jaxmdwarf.measure.spectrum import LOW_SNR_BELOW, WINDOW_AA
from jaxmdwarf.training.cyclestar.guards import GuardConfig
from jaxmdwarf.training.cyclestar.losses import LossWeights
from jaxmdwarf.training.transfer import population
from jaxmdwarf.training.transfer.anchors import LEAST_ANCHORS
from jaxmdwarf.training.transfer.domain import PAPER_SHARES
from jaxmdwarf.wavelengths import FASTEST_STAR_KMS, PAPER_GRID
from jaxmdwarf.workflows.anchoring import DEFAULT_ERRORS
from jaxmdwarf.workflows.catalogue_figures import LEAST_PARALLAX_SIGMA
from jaxmdwarf.workflows.distributed import FEWEST_PARTS, PART_SPECTRA

DOCS = Path(__file__).parents[1] / "docs"
CUTS, PAIRS, GUARDS, REPEATS = CutConfig(), PairConfig(), GuardConfig(), RepeatConfig()
VELOCITIES, POPULATION = GaiaVelocityConfig(), population.PopulationConfig()


def weights(one):
    return one.synth, one.obs, one.adversarial


STATED = [
    ("flags.md", "signal-to-noise below 5 in r or i", LOW_SNR_BELOW, 5),
    ("flags.md", "reduced chi-square above 50 ", results.BAD_CHI2, 50),
    ("flags.md", "above 5 times what stars of this S/N have", results.HIGH_CHI2, 5),
    ("flags.md", "its surrogate by > 0.1 sigma", LevenbergMarquardt().trusted_sigma, 0.1),
    ("flags.md", "more than half of the information on Teff", results.PRIOR_SHARE, 0.5),
    ("flags.md", "beyond 1500 km/s, which no star has", FASTEST_STAR_KMS, 1500),
    ("flags.md", "further than 50 km/s and 5 errors", HEADER_TOLERANCE_KMS, 50),
    ("flags.md", "limit of the catalogue's cuts (4300 K)", CUTS.max_teff, 4300),
    ("flags.md", "by the catalogue's cuts (0.05 dex)", CUTS.logg_margin, 0.05),
    ("flags.md", "beyond 5 sigma of what the catalogue has", CUTS.error_sigma, 5),
    ("flags.md", "below the limit of the catalogue's cuts (1 Gyr)", CUTS.min_age_gyr, 1),
    ("flags.md", "held from 8400 Angstrom on", drift.HELD_AA, 8400),
    ("flags.md", "how far off 6500 Angstrom was", drift.TOLD_AA, 6500),
    ("catalogue.md", "S/N below 5 in r or i", CUTS.min_snr, 5),
    ("catalogue.md", "reduced chi-square above 50", CUTS.max_chi2, 50),
    ("catalogue.md", "stars with three visits or more", REPEATS.min_visits, 3),
    ("catalogue.md", "in bins of S/N 10 wide", REPEATS.bin_width, 10),
    ("catalogue.md", "1.4826 times the median absolute", round(_MAD_TO_SIGMA, 4), 1.4826),
    ("method.md", "the velocity at 6000, 6500 ... 8000 Å", drift.KNOTS_AA,
     (6000, 6500, 7000, 7500, 8000)),
    ("method.md", "random walk from there with steps of 40 km/s", drift.STEP_KMS, 40),
    ("method.md", "lowers chi-square by more than 30 s²", drift.LEAST_CHI2, 30),
    ("method.md", "is beyond 10 km/s at 6500 Å", drift.LEAST_KMS, 10),
    ("method.md", "count as no larger than five s", drift._OUTLIER, 5),
    ("transfer.md", "weights 90/90/1 as for", weights(LossWeights.mock()), (90, 90, 1)),
    ("transfer.md", "weights 90/90/1 as for", weights(LossWeights()), (90, 90, 1)),
    ("transfer.md", "has the 3/9/1 that they take", weights(LossWeights.real()), (3, 9, 1)),
    ("transfer.md", "0.3 % of the training stars exceed", POPULATION.beyond, 0.003),
    ("transfer.md", "when each quarter of them is measured", population._N_PART, 4),
    ("transfer.md", "below 0.1 or above 5)", GUARDS.critic_loss, (0.1, 5)),
    ("transfer.md", "tell the domains apart (above 0.75)", GUARDS.shared_accuracy, 0.75),
    ("transfer.md", "the slopes below 0.5)", GUARDS.slope_cosine, 0.5),
    ("transfer.md", "scatter more than with theory alone", GUARDS.label_scatter, 1),
    ("references.md", "Five stars are the least", LEAST_ANCHORS, 5),
    ("references.md", "Without errors 80 K and 0.1 dex are taken", DEFAULT_ERRORS,
     {"teff": 80, "logg": 0.1, "mh": 0.1, "alpha_m": 0.1}),
    ("pairs.md", "`--max-r-chance-align 0.01`", PAIRS.max_r_chance_align, 0.01),
    ("pairs.md", "`--min-separation-arcsec 3`", PAIRS.min_separation_arcsec, 3),
    ("pairs.md", "`--max-delta-rv-kms 10`", PAIRS.max_delta_rv_kms, 10),
    ("pairs.md", "`--snr-thresholds 5 20 50`", PAIRS.snr_thresholds, (5, 20, 50)),
    ("pairs.md", "`--min-primary-snr 0`", PAIRS.min_primary_snr, 0),
    ("pairs.md", "within `--radius-arcsec` (3)", PAIRS.radius_arcsec, 3),
    ("pairs.md", "within `--radius-arcsec` (3)", VELOCITIES.radius_arcsec, 3),
    ("pairs.md", "`--max-gaia-error-kms inf`", VELOCITIES.max_error_kms, math.inf),
    ("pairs.md", "`--min-gaia-transits 0`", VELOCITIES.min_transits, 0),
    ("pairs.md", "`--min-velocity-snr 0`", VELOCITIES.min_snr, 0),
    ("pairs.md", "`--survey-epoch` (2000)", VELOCITIES.epoch_yr, 2000),
    ("figures.md", "parallaxes below five times their error", LEAST_PARALLAX_SIGMA, 5),
    ("scale.md", "Parts have 5,000 spectra", PART_SPECTRA, 5000),
    ("scale.md", "16 parts at least", FEWEST_PARTS, 16),
    ("packs.md", "256 spectra a chunk", PART_ROWS, 256),
    ("packs.md", "type and width (to 512 pixels)", WIDTH_STEP, 512),
    ("accuracy.md", "Halpha above 0.75 Å", ACTIVE_ABOVE_AA, 0.75),
    ("faq.md", "models of 6000-8900 Å", WINDOW_AA, (6000, 8900)),
    ("faq.md", "models of 6000-8900 Å", FitConfig().window_aa, (6000, 8900)),
]  # fmt: skip


@pytest.mark.parametrize(("page", "words", "found", "stated"), STATED)
def test_numbers_are_those_of_the_pages(page, words, found, stated):
    assert words in " ".join((DOCS / page).read_text().split())
    assert found == stated


def test_the_pixels_and_parts_of_the_paper_are_those_of_the_paper():
    """6000 to 8900 Angstrom in steps of 1, and 8:2:1 (section 3.3.1)."""
    assert PAPER_GRID.wave_aa.tolist() == list(range(6000, 8901))
    assert PAPER_SHARES == (8, 2, 1)
