"""What makes a trained transfer unfit to be a model."""

import math

import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.training.cyclestar.guards import GuardConfig, find_faults

SOUND = {
    "critic_synth": 1.3,
    "critic_obs": 1.2,
    "shared_accuracy": 0.58,
    "slope_cosine_teff": 0.95,
    "slope_cosine_mh": 0.8,
    "label_scatter_teff": 60.0,
    "label_scatter_theory_teff": 71.0,
    "gap": 0.1,
}


def test_a_sound_transfer_has_no_fault():
    assert find_faults(SOUND) == ()
    assert find_faults({}) == ()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"critic_obs": 191.0}, "observed domain is saturated"),
        ({"critic_synth": 0.001}, "synthetic domain is saturated"),
        ({"shared_accuracy": 0.99}, "told apart at 0.99"),
        ({"slope_cosine_teff": -0.74}, "teff changes"),
        ({"label_scatter_teff": 80.0}, "teff scatters by 80"),
        ({"slope_cosine_mh": math.nan}, "mh changes"),
    ],
)
def test_each_fault_is_named_with_its_number(change, word):
    faults = find_faults({**SOUND, **change})
    assert len(faults) == 1
    assert word in faults[0]


def test_limits_are_those_that_are_given():
    loose = GuardConfig(critic_loss=(0.0, 1e3), shared_accuracy=1.0, slope_cosine=-1.0)
    bad = {**SOUND, "critic_obs": 191.0, "shared_accuracy": 0.99, "slope_cosine_teff": -0.7}
    assert len(find_faults(bad)) == 3
    assert find_faults(bad, loose) == ()
    with pytest.raises(UsageError, match="critics"):
        GuardConfig(critic_loss=(2.0, 1.0))


def test_scores_at_their_limits_are_sound():
    limits = GuardConfig(critic_loss=(0.5, 2.0), shared_accuracy=0.6, slope_cosine=0.3,
                         label_scatter=1.5)  # fmt: skip
    at = {
        "critic_synth": 0.5, "critic_obs": 2.0, "shared_accuracy": 0.6, "slope_cosine_teff": 0.3,
        "label_scatter_teff": 60.0, "label_scatter_theory_teff": 40.0,
    }  # fmt: skip
    assert find_faults(at, limits) == ()
    for name, value in (
        ("critic_synth", 0.49), ("critic_obs", 2.01), ("shared_accuracy", 0.61),
        ("slope_cosine_teff", 0.29), ("label_scatter_teff", 60.1), ("critic_obs", math.nan),
        ("shared_accuracy", math.nan), ("label_scatter_teff", math.nan),
    ):  # fmt: skip
        assert len(find_faults({**at, name: value}, limits)) == 1, name
    # Scatter without that of theory, and the other way round, is not judged.
    assert find_faults({"label_scatter_teff": 1e3}, limits) == ()
    assert find_faults({"label_scatter_theory_teff": 1.0}, limits) == ()
    with pytest.raises(UsageError, match=r"between 2\.0 and 2\.0"):
        GuardConfig(critic_loss=(2.0, 2.0))
