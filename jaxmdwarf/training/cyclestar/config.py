"""How Cycle-StarNet is trained: a frozen description; the paper's and a compact one are ready."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.cyclestar import ConvolutionForm, CycleStarSizes, Precision
from jaxmdwarf.training.cyclestar.losses import AdversarialForm, LossWeights

_SIZES = ("compact", "original")


@dataclass(frozen=True)
class CycleStarConfig:
    """How Cycle-StarNet is trained.

    Parameters
    ----------
    sizes : {"compact", "original"} or CycleStarSizes
        Networks; of sizes of your own, the number of pixels is taken from the spectra, and
        arithmetic and scale of flux from here.
    flux_scale : (float, float) or "data"
        The one mean and the one deviation by which all flux is scaled inside the networks; "data"
        measures them on the observed training spectra (see
        `jaxmdwarf.training.cyclestar.data.measure_flux_scale`). Networks with centres of their own
        have no use for the mean.
    batch_size : int
        Spectra of each domain a step, drawn with replacement.
    steps : int
        Batch iterations (what the paper calls epochs), at most.
    report_every : int
        Steps a dispatch; validation, early stopping and checkpoints happen in between.
    learning_rate, critic_learning_rate : float
        Peak rates of the two Adams.
    first_moment_decay, second_moment_decay : float
        Adam's betas.
    schedule : {"constant", "decay", "cosine"}
        "decay" multiplies both rates by `decay` after each of `decay_steps`; "cosine" falls to a
        hundredth at the last step.
    decay : float
    decay_steps : tuple of int
    warmup_steps : int
        Steps over which the rates rise from zero.
    weights : LossWeights
        Of equation 7.
    form : {"non_saturating", "paper"}
        What the generator minimises of equation 5; see
        `jaxmdwarf.training.cyclestar.losses.adversarial_loss`.
    reencoded_split : bool
        Whether the observed critic sees split latents read again from a transfer.
    residual : bool
        Whether a transfer is the spectrum plus the difference of the two decoders.
    synthetic_error : float
        One-sigma error of normalised synthetic flux (paper, section 2.4).
    error_floor, largest_error : float or None
        See `jaxmdwarf.training.transfer.domain.floor_errors`.
    r1 : float
        Weight of the slope penalty of the critics (Mescheder et al. 2018); 0 is off.
    spectral_norm : bool
        Whether kernels of the critics are divided by their largest singular value (Miyato et al.
        2018).
    averaging : float
        Decay a step of the running average of the generator's weights, which is then validated
        and kept; 0 is off.
    clip_norm : float or None
        Largest norm of either player's gradient.
    instance_noise : float
        Standard deviation of the noise on spectra that critics see, falling linearly to 0 at the
        last step (Sønderby et al. 2017); 0 is off.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products in training; the model that comes out computes in float32. See
        `jaxmdwarf.networks.cyclestar.CycleStarSizes`.
    convolution : {"auto", "product", "library"}
        See there.
    validation_rows : int
        Spectra of each domain that are validated on, at most.
    patience : int or None
        Steps without a smaller gap after which training stops; None never stops early.
    keep : {"best", "last"}
        Whether the weights with the smallest validation gap are kept, or the last.
    seed : int
        Decides the split, the first weights, the batches.
    """

    sizes: Literal["compact", "original"] | CycleStarSizes = "compact"
    flux_scale: tuple[float, float] | Literal["data"] = (1.0, 0.1)
    batch_size: int = 32
    steps: int = 2000
    report_every: int = 100
    learning_rate: float = 2e-3
    critic_learning_rate: float = 5e-4
    first_moment_decay: float = 0.5
    second_moment_decay: float = 0.999
    schedule: Literal["constant", "decay", "cosine"] = "cosine"
    decay: float = 0.7
    decay_steps: tuple[int, ...] = ()
    warmup_steps: int = 0
    weights: LossWeights = field(default_factory=LossWeights)
    form: AdversarialForm = "non_saturating"
    reencoded_split: bool = False
    residual: bool = False
    synthetic_error: float = 0.01
    error_floor: float | None = 0.005
    largest_error: float | None = None
    r1: float = 0.0
    spectral_norm: bool = False
    averaging: float = 0.0
    clip_norm: float | None = None
    instance_noise: float = 0.0
    precision: Precision = "float32"
    convolution: ConvolutionForm = "auto"
    validation_rows: int = 512
    patience: int | None = None
    keep: Literal["best", "last"] = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("batch_size", "steps", "report_every", "validation_rows")
        rates = ("learning_rate", "critic_learning_rate", "decay", "synthetic_error")
        for name in (*counts, *rates):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("patience", "clip_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive or None, got {getattr(self, name)}.")
        for name in ("r1", "instance_noise", "warmup_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("averaging", "first_moment_decay", "second_moment_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not isinstance(self.sizes, CycleStarSizes) and self.sizes not in _SIZES:
            raise UsageError(
                f"sizes {self.sizes!r} are unknown.", f"use one of {', '.join(_SIZES)}."
            )
        if self.flux_scale != "data" and not (
            len(self.flux_scale) == 2 and float(self.flux_scale[1]) > 0
        ):
            raise UsageError(
                f"flux_scale {self.flux_scale!r} is not a mean and a positive deviation.",
                'give two numbers, for example (0.977, 0.052), or "data".',
            )
        for name, known in (
            ("schedule", ("constant", "decay", "cosine")),
            ("keep", ("best", "last")),
            ("form", ("non_saturating", "paper")),
            ("precision", get_args(Precision)),
            ("convolution", get_args(ConvolutionForm)),
        ):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} is unknown.", f"use one of {', '.join(known)}."
                )

    @classmethod
    def paper(cls, **changes: Any) -> "CycleStarConfig":
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
        plain = cls(
            sizes="original",
            flux_scale="data",
            weights=LossWeights.mock(),
            batch_size=8,
            steps=500_000,
            report_every=1000,
            learning_rate=1e-4,
            critic_learning_rate=1e-4,
            schedule="decay",
            decay_steps=(50_000, 100_000, 150_000, 200_000),
            reencoded_split=True,
            largest_error=0.05,
            validation_rows=1000,
            keep="last",
        )
        return replace(plain, **changes)

    @classmethod
    def compact(cls, **changes: Any) -> "CycleStarConfig":
        """Small networks and what steadies them, for two minutes on two processor cores."""
        steady = cls(
            steps=1200,
            weights=LossWeights(synth=1.0, obs=1.0, adversarial=1.0),
            residual=True,
            r1=1.0,
            averaging=0.995,
            clip_norm=100.0,
            warmup_steps=100,
        )
        return replace(steady, **changes)

    def shape(self, n_pix: int) -> CycleStarSizes:
        """The networks for spectra of `n_pix` pixels.

        Raises
        ------
        UsageError
            If the scale of flux has still to be measured.
        """
        if self.flux_scale == "data":
            raise UsageError(
                "the scale of flux has not been measured yet.",
                "use jaxmdwarf.training.cyclestar.data.settle_flux_scale first.",
            )
        sizes = self.sizes
        if not isinstance(sizes, CycleStarSizes):
            sizes = getattr(CycleStarSizes, sizes)(n_pix)
        mean, spread = self.flux_scale
        return replace(
            sizes,
            n_pix=n_pix,
            flux_mean=float(mean),
            flux_spread=float(spread),
            precision=self.precision,
            convolution=self.convolution,
        )
