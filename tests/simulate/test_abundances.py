"""Abundances: metals scale with [M/H], alpha elements with [alpha/M] besides."""

import jax.numpy as jnp
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.simulate.abundances import as_mapping, nucleus_mass, number_fractions
from jaxmdwarf.simulate.chemistry.equilibrium import (
    equilibrium,
)


def test_metallicity_scales_metals_and_alpha_scales_alpha_elements():
    solar = as_mapping(number_fractions(0.0, 0.0))
    poor = as_mapping(number_fractions(-1.0, 0.4))
    assert float(solar["O"]) == pytest.approx(10 ** (8.76 - 12), rel=1e-5)
    assert float(solar["C"] / solar["O"]) == pytest.approx(0.55, abs=0.01)
    for name, dex in (
        ("H", 0.0),
        ("He", 0.0),
        ("Fe", -1.0),
        ("C", -1.0),
        ("Ti", -0.6),
        ("O", -0.6),
    ):
        assert float(jnp.log10(poor[name] / solar[name])) == pytest.approx(dex, abs=1e-5)
    assert float(nucleus_mass(number_fractions(0.0, 0.0))) == pytest.approx(1.37, abs=0.01)


def test_abundances_of_wrong_length_are_refused():
    with pytest.raises(MismatchError, match="number_fractions"):
        as_mapping(jnp.ones(3))
    with pytest.raises(MismatchError, match="number_fractions"):
        equilibrium(3000.0, 1e5, jnp.ones(3))
    with pytest.raises(UsageError, match="XyZ"):
        equilibrium(3000.0, 1e5, number_fractions())["XyZ"]
