"""How Cycle-StarNet is trained: a tree of frozen descriptions; the paper's and a compact one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.convolution import ConvolutionForm, Precision
from jaxmdwarf.networks.cyclestar import CycleStarSizes
from jaxmdwarf.training.cyclestar.constraints import ConstraintWeights
from jaxmdwarf.training.cyclestar.losses import AdversarialForm, LossWeights


@dataclass(frozen=True)
class CycleStarNetworkConfig:
    """Which networks are trained, and in which arithmetic.

    Parameters
    ----------
    sizes : {"compact", "pooled", "original"}
    own_sizes : CycleStarSizes, optional
        Sizes of your own in place of these; the number of pixels is taken from the spectra, and
        arithmetic and scale of flux from here.
    flux_scale : (float, float) or "data"
        The one mean and the one deviation by which all flux is scaled inside the networks; "data"
        measures them on the observed training spectra (see
        `jaxmdwarf.training.cyclestar.data.measure_flux_scale`). Networks with centres of their own
        have no use for the mean.
    residual : bool
        Whether a transfer is the spectrum plus the difference of the two decoders.
    equal_start : bool
        Whether the observed domain's encoder and decoder start as copies of the synthetic domain's,
        split latents without effect: see `jaxmdwarf.networks.cyclestar.equate_domains`.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products in training; the model that comes out computes in float32. See
        `jaxmdwarf.networks.cyclestar.CycleStarSizes`.
    convolution : {"auto", "product", "library"}
        See there.
    """

    sizes: Literal["compact", "pooled", "original"] = "compact"
    own_sizes: CycleStarSizes | None = None
    flux_scale: tuple[float, float] | Literal["data"] = (1.0, 0.1)
    residual: bool = False
    equal_start: bool = False
    precision: Precision = "float32"
    convolution: ConvolutionForm = "auto"

    def __post_init__(self) -> None:
        _require_known(self, sizes=("compact", "pooled", "original"))
        _require_known(self, precision=get_args(Precision), convolution=get_args(ConvolutionForm))
        if self.flux_scale != "data" and not (
            len(self.flux_scale) == 2 and float(self.flux_scale[1]) > 0
        ):
            raise UsageError(
                f"flux_scale {self.flux_scale!r} is not a mean and a positive deviation.",
                'give two numbers, for example (0.977, 0.052), or "data".',
            )


@dataclass(frozen=True)
class CycleStarOptimiserConfig:
    """How both players take a step.

    Parameters
    ----------
    learning_rate, critic_learning_rate : float
        Peak rates of the two Adams.
    first_moment_decay, second_moment_decay : float
        Adam's betas.
    batch_size : int
        Spectra of each domain a step, drawn with replacement.
    averaging : float
        Decay a step of the running average of the generator's weights, which is then validated
        and kept; 0 is off.
    clip_norm : float or None
        Largest norm of either player's gradient.
    """

    learning_rate: float = 2e-3
    critic_learning_rate: float = 5e-4
    first_moment_decay: float = 0.5
    second_moment_decay: float = 0.999
    batch_size: int = 32
    averaging: float = 0.0
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate", "critic_learning_rate", "batch_size")
        if self.clip_norm is not None:
            _require_positive(self, "clip_norm")
        for name in ("averaging", "first_moment_decay", "second_moment_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")


@dataclass(frozen=True)
class CycleStarScheduleConfig:
    """How many steps are taken, at which rates, and what of them is kept.

    Parameters
    ----------
    steps : int
        Batch iterations (what the paper calls epochs), at most.
    report_every : int
        Steps a dispatch; validation, early stopping and checkpoints happen in between.
    kind : {"constant", "decay", "cosine"}
        "decay" multiplies both rates by `decay` after each of `decay_steps`; "cosine" falls to a
        hundredth at the last step.
    decay : float
    decay_steps : tuple of int
    warmup_steps : int
        Steps over which the rates rise from zero.
    validation_rows : int
        Spectra of each domain that are validated on, at most.
    patience : int or None
        Steps without a smaller gap (or one as good) after which training stops; None never stops
        early.
    gap_tolerance : float
        Share by which a gap may exceed the smallest and be held to be as good: of such steps the
        latest is kept, as latents and labels settle where the gap changes by chance alone.
    keep : {"best", "sound", "last"}
        Whether the weights with the smallest validation gap are kept, those with the smallest of
        the steps at which nothing was found to be wrong (`jaxmdwarf.training.cyclestar.guards`), or
        the last. Without a sound step the last are kept.
    """

    steps: int = 2000
    report_every: int = 100
    kind: Literal["constant", "decay", "cosine"] = "cosine"
    decay: float = 0.7
    decay_steps: tuple[int, ...] = ()
    warmup_steps: int = 0
    validation_rows: int = 512
    patience: int | None = None
    gap_tolerance: float = 0.0
    keep: Literal["best", "sound", "last"] = "best"

    def __post_init__(self) -> None:
        _require_known(self, kind=("constant", "decay", "cosine"), keep=("best", "sound", "last"))
        _require_positive(self, "steps", "report_every", "decay", "validation_rows")
        if self.patience is not None:
            _require_positive(self, "patience")
        for name in ("warmup_steps", "gap_tolerance"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}.")


@dataclass(frozen=True)
class CycleStarLossesConfig:
    """What both players minimise.

    Parameters
    ----------
    weights : LossWeights
        Of equation 7.
    form : {"non_saturating", "paper"}
        What the generator minimises of equation 5; see
        `jaxmdwarf.training.cyclestar.losses.adversarial_loss`.
    reencoded_split : bool
        Whether the observed critic sees split latents read again from a transfer.
    r1 : float
        Weight of the slope penalty of the critics (Mescheder et al. 2018); 0 is off.
    spectral_norm : bool
        Whether kernels of the critics are divided by their largest singular value (Miyato et al.
        2018).
    critics_see : {"reconstructions", "spectra"}
        What critics hold transfers against; the spectra themselves where these are noisy alike, see
        `jaxmdwarf.training.cyclestar.losses.show_passes`.
    split_noise : float
        Standard deviation of Gaussian noise on split latents in training: a stochastic bottleneck
        together with ``constraints.split_prior``; 0 is off.
    constraints : ConstraintWeights
        Of terms that the paper does not have.
    instance_noise : float
        Standard deviation of the noise on spectra that critics see, falling linearly to 0 at the
        last step (Sønderby et al. 2017); 0 is off.
    """

    weights: LossWeights = field(default_factory=LossWeights)
    form: AdversarialForm = "non_saturating"
    reencoded_split: bool = False
    r1: float = 0.0
    spectral_norm: bool = False
    critics_see: Literal["reconstructions", "spectra"] = "reconstructions"
    split_noise: float = 0.0
    constraints: ConstraintWeights = field(default_factory=ConstraintWeights)
    instance_noise: float = 0.0

    def __post_init__(self) -> None:
        _require_known(self, form=("non_saturating", "paper"))
        _require_known(self, critics_see=("reconstructions", "spectra"))
        for name in ("r1", "instance_noise", "split_noise"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}.")


@dataclass(frozen=True)
class CycleStarNoiseConfig:
    """What errors spectra are given.

    Parameters
    ----------
    synthetic_error : float
        One-sigma error of normalised synthetic flux (paper, section 2.4).
    error_floor, largest_error : float or None
        See `jaxmdwarf.training.transfer.domain.floor_errors`.
    alike : bool
        Whether synthetic spectra are observed in training: each with the masked pixels, the errors
        and noise as of an observed spectrum (`jaxmdwarf.training.cyclestar.data.pair_domains`),
        and transfers with the same masked pixels. Else synthetic spectra are noise-free, with
        `synthetic_error`, and by that alone both latents and critics tell the domains apart.
    """

    synthetic_error: float = 0.01
    error_floor: float | None = 0.005
    largest_error: float | None = None
    alike: bool = False

    def __post_init__(self) -> None:
        _require_positive(self, "synthetic_error")


@dataclass(frozen=True)
class CycleStarConfig:
    """How Cycle-StarNet is trained.

    Parameters
    ----------
    networks : CycleStarNetworkConfig
    optimiser : CycleStarOptimiserConfig
    schedule : CycleStarScheduleConfig
    losses : CycleStarLossesConfig
    noise : CycleStarNoiseConfig
    seed : int
        Decides the split, the first weights, the batches.
    """

    networks: CycleStarNetworkConfig = field(default_factory=CycleStarNetworkConfig)
    optimiser: CycleStarOptimiserConfig = field(default_factory=CycleStarOptimiserConfig)
    schedule: CycleStarScheduleConfig = field(default_factory=CycleStarScheduleConfig)
    losses: CycleStarLossesConfig = field(default_factory=CycleStarLossesConfig)
    noise: CycleStarNoiseConfig = field(default_factory=CycleStarNoiseConfig)
    seed: int = 0

    def vary(self, **changes: Any) -> CycleStarConfig:
        """The same with other values of fields of any section; no two sections share a name.

        Raises
        ------
        UsageError
            If no section has a field of that name.

        Examples
        --------
        >>> config = CycleStarConfig().vary(steps=40, residual=True, seed=3)
        >>> config.schedule.steps, config.networks.residual, config.seed
        (40, True, 3)
        """
        changed: dict[str, Any] = {}
        for name, value in changes.items():
            if name in {item.name for item in fields(self)}:
                changed[name] = value
                continue
            for section in (item.name for item in fields(self)):
                part = changed.get(section, getattr(self, section))
                if section != "seed" and name in {item.name for item in fields(part)}:
                    changed[section] = replace(part, **{name: value})
                    break
            else:
                raise UsageError(f"nothing of Cycle-StarNet's training is called {name!r}.")
        return replace(self, **changed)

    @classmethod
    def paper(cls, **changes: Any) -> CycleStarConfig:
        """The paper's configuration: the authors' sizes and rates, nothing of ours.

        Five hundred thousand batches of 8; both Adams at 1e-4 with betas 0.5 and 0.999, both rates
        times 0.7 at 50, 100, 150 and 200 thousand; latents with instance norm; split latents read
        again from a transfer before it is judged; flux scaled by one mean and one deviation,
        measured on the data (theirs, of APOGEE, are 0.977 and 0.052); errors floored at 0.005 and
        masked above 0.05; the last weights are kept.

        Reconstructions weigh 90 and 90 against 1 for the critics, as the authors have it for their
        mock survey (`LossWeights.mock`): closing the whole gap of a simulated survey is worth a few
        per cent of a distance of about 1, which an adversarial term of order 1 would outweigh. For
        real spectra they take 3 and 9: give ``weights=LossWeights.real()``.
        """
        plain = cls().vary(
            sizes="original",
            flux_scale="data",
            weights=LossWeights.mock(),
            batch_size=8,
            steps=500_000,
            report_every=1000,
            learning_rate=1e-4,
            critic_learning_rate=1e-4,
            kind="decay",
            decay_steps=(50_000, 100_000, 150_000, 200_000),
            reencoded_split=True,
            largest_error=0.05,
            validation_rows=1000,
            keep="last",
        )
        return plain.vary(**changes)

    @classmethod
    def held(cls, **changes: Any) -> CycleStarConfig:
        """Small networks and all that holds a transfer, for two minutes on two processor cores.

        Beside what `compact` has: both domains are masked and noisy alike, critics have unit norm
        and little say and see spectra, networks start equal, split latents are two noisy numbers a
        star, shared latents are aligned, and labels change carried spectra much as they change
        theory's. Why, and what each is worth: ``docs/cyclestar.md``.
        """
        held = cls.compact(
            sizes="pooled",
            steps=2000,
            report_every=250,
            batch_size=16,
            alike=True,
            critics_see="spectra",
            spectral_norm=True,
            r1=0.0,
            split_noise=0.5,
            equal_start=True,
            weights=LossWeights(synth=1.0, obs=1.0, adversarial=0.1),
            constraints=ConstraintWeights(
                latents=0.05, split_prior=0.01, independence=0.3, alignment=30.0, slopes=0.2
            ),
            validation_rows=256,
            gap_tolerance=0.05,
            keep="sound",
        )
        return held.vary(**changes)

    @classmethod
    def compact(cls, **changes: Any) -> CycleStarConfig:
        """Small networks and what steadies critics alone; labels drift under it."""
        steady = cls().vary(
            steps=1200,
            weights=LossWeights(synth=1.0, obs=1.0, adversarial=1.0),
            residual=True,
            r1=1.0,
            averaging=0.995,
            clip_norm=100.0,
            warmup_steps=100,
        )
        return steady.vary(**changes)

    def shape(self, n_pix: int) -> CycleStarSizes:
        """The networks for spectra of `n_pix` pixels.

        Raises
        ------
        UsageError
            If the scale of flux has still to be measured.
        """
        chosen = self.networks
        if chosen.flux_scale == "data":
            raise UsageError(
                "the scale of flux has not been measured yet.",
                "use jaxmdwarf.training.cyclestar.data.settle_flux_scale first.",
            )
        sizes = chosen.own_sizes or getattr(CycleStarSizes, chosen.sizes)(n_pix)
        mean, spread = chosen.flux_scale
        return replace(
            sizes,
            n_pix=n_pix,
            flux_mean=float(mean),
            flux_spread=float(spread),
            precision=chosen.precision,
            convolution=chosen.convolution,
        )


def _require_known(config: Any, **known: Collection[str]) -> None:
    for name, choices in known.items():
        if getattr(config, name) not in choices:
            raise UsageError(
                f"{name} {getattr(config, name)!r} is unknown.", f"use one of {', '.join(choices)}."
            )


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise UsageError(f"{name} must be positive, got {getattr(config, name)}.")
