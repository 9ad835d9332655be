"""When a trained transfer is not fit to be a model: what went wrong, in numbers and words."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxmdwarf.errors import UsageError


@dataclass(frozen=True)
class GuardConfig:
    """How far scores of held-out spectra may go.

    Parameters
    ----------
    critic_loss : (float, float)
        Least and largest loss of a critic in either domain. 1.39 is a critic that can tell nothing;
        near 0 it has won outright, at many it is sure of itself and wrong: saturated either way, it
        teaches nothing.
    shared_accuracy : float
        Largest accuracy of telling the domains apart by their shared latents; 0.5 is shared.
    slope_cosine : float
        Least cosine of what a label does to carried flux with what it does to theory's.
    label_scatter : float
        Largest scatter of fitted labels, over that of fits with theory alone, where a judge gives
        both (``label_scatter_<label>``, ``label_scatter_theory_<label>``).

    Raises
    ------
    UsageError
        If the least loss is not below the largest.
    """

    critic_loss: tuple[float, float] = (0.1, 5.0)
    shared_accuracy: float = 0.75
    slope_cosine: float = 0.5
    label_scatter: float = 1.0

    def __post_init__(self) -> None:
        least, largest = self.critic_loss
        if not least < largest:
            raise UsageError(
                f"critics' losses are to lie between {least} and {largest}.",
                "give the smaller number first.",
            )


def find_faults(
    validation: Mapping[str, float], limits: GuardConfig | None = None
) -> tuple[str, ...]:
    """What is wrong with a transfer, one clause each; empty if nothing is.

    Parameters
    ----------
    validation : mapping
        Scores of `jaxmdwarf.training.cyclestar.validation.validate_transfer`. Those that are
        missing are not judged; those that are not numbers count as faults.
    limits : GuardConfig, optional

    Examples
    --------
    >>> find_faults({"critic_obs": 1.2, "shared_accuracy": 0.99, "slope_cosine_teff": 0.9})
    ('shared latents of the two domains are told apart at 0.99 (0.75 at most, 0.5 is shared)',)
    """
    limits = limits or GuardConfig()
    least, largest = limits.critic_loss
    faults = []
    for domain, word in (("synth", "synthetic"), ("obs", "observed")):
        loss = validation.get(f"critic_{domain}")
        if loss is not None and not least <= loss <= largest:
            faults.append(
                f"the critic of the {word} domain is saturated, its loss is {loss:.3g} "
                f"({least:g} to {largest:g}, 1.39 can tell nothing)"
            )
    accuracy = validation.get("shared_accuracy")
    if accuracy is not None and not accuracy <= limits.shared_accuracy:
        faults.append(
            f"shared latents of the two domains are told apart at {accuracy:.2f} "
            f"({limits.shared_accuracy:g} at most, 0.5 is shared)"
        )
    start = "slope_cosine_"
    for name in (name for name in validation if name.startswith(start)):
        if not validation[name] >= limits.slope_cosine:
            faults.append(
                f"{name.removeprefix(start)} changes carried spectra otherwise than theory's, "
                f"cosine {validation[name]:.2f} ({limits.slope_cosine:g} at least)"
            )
    start = "label_scatter_theory_"
    for name in (name for name in validation if name.startswith(start)):
        label = name.removeprefix(start)
        found, theory = validation.get(f"label_scatter_{label}"), validation[name]
        if found is not None and not found <= limits.label_scatter * theory:
            faults.append(
                f"{label} scatters by {found:.3g}, with theory alone by {theory:.3g} "
                f"({limits.label_scatter:g} times that at most)"
            )
    return tuple(faults)
