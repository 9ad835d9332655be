"""Configurations of emulators that cannot work are refused."""

import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.training.emulator.config import (
    EmulatorConfig,
    NetworkConfig,
    OptimiserConfig,
    ScheduleConfig,
)


@pytest.mark.parametrize(
    ("section", "options"),
    [
        (ScheduleConfig, {"steps": 0}),
        (ScheduleConfig, {"warmup_steps": -1}),
        (NetworkConfig, {"rank": 0}),
        (NetworkConfig, {"hidden": ()}),
        (OptimiserConfig, {"batch_size": 0}),
        (OptimiserConfig, {"averaging": 1.0}),
        (EmulatorConfig, {"validation_fraction": 1.0}),
    ],
    ids=str,
)
def test_impossible_configurations_are_refused(section, options):
    with pytest.raises(UsageError):
        section(**options)
