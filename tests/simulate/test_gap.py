import dataclasses

import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.simulate.gap import (
    BAND_STRENGTHS,
    CAUSES,
    INSTRUMENT_CAUSES,
    PHYSICS_CAUSES,
    UNKNOWN_OPACITY,
    DomainGap,
)
from jaxmdwarf.simulate.molecules.species import load_species
from jaxmdwarf.simulate.synthesis import Physics

FIELDS_OF_CAUSE = {
    "band_strengths": {"system_strength"},
    "missing_systems": {"system_strength"},
    "damping": {"damping_scale"},
    "temperature_structure": {"temperature_gradient", "surface_cooling"},
    "atomic_lines": {
        "atomic_shift_fraction",
        "atomic_shift_aa",
        "atomic_missing_fraction",
        "atomic_strength_scatter_dex",
    },
}


def test_no_gap_is_theory_whatever_the_seed():
    assert DomainGap.none().physics(seed=7) == Physics()
    assert DomainGap.none().active == ()
    assert DomainGap.none().ivar_factor == 1.0
    assert DomainGap.parse("0") == DomainGap.none()
    assert DomainGap.full().scaled(0.0) == DomainGap.none()


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_alone_changes_only_its_own_physics(cause):
    nature, theory = DomainGap.only(cause).physics(seed=3), Physics()
    changed = {
        field.name
        for field in dataclasses.fields(Physics)
        if field.name != "seed" and getattr(nature, field.name) != getattr(theory, field.name)
    }
    assert changed == FIELDS_OF_CAUSE.get(cause, set())


def test_every_band_system_of_the_gap_exists():
    for label in (*BAND_STRENGTHS, *UNKNOWN_OPACITY):
        species, system = label.split(" ")
        load_species(species).system(system)


def test_band_strengths_are_off_by_tens_of_per_cent_and_scale():
    full = dict(DomainGap.only("band_strengths").physics().system_strength)
    assert set(full) == set(BAND_STRENGTHS)
    assert all(0.1 < abs(value - 1) < 0.5 for value in full.values())
    half = dict(DomainGap.only("band_strengths").scaled(0.5).physics().system_strength)
    assert half["TiO gamma"] == pytest.approx(full["TiO gamma"] ** 0.5)


def test_parsing():
    assert DomainGap.parse("1") == DomainGap.full()
    assert DomainGap.parse("0.5").telluric_residuals == 0.5
    assert DomainGap.parse("telluric,flux_calibration").active == (
        "flux_calibration",
        "telluric_residuals",
    )
    assert DomainGap.parse("instrument").active == INSTRUMENT_CAUSES
    assert DomainGap.parse("physics=0.3").active == PHYSICS_CAUSES
    assert DomainGap.parse("lsf=0.5").lsf_variation == 0.5


@pytest.mark.parametrize("text", ["", "teluric", "-1", "nan", "telluric=x", "9"])
def test_nonsense_is_refused(text):
    with pytest.raises(UsageError):
        DomainGap.parse(text)


def test_a_misspelt_cause_is_told_the_real_ones():
    with pytest.raises(UsageError, match="telluric_residuals"):
        DomainGap.parse("teluric")
