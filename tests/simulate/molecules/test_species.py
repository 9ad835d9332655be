"""Tables of molecules: every constant has a reference, dissociation energies are bounded."""

import pytest

from jaxmdwarf.simulate.tables import read_rows

SPECIES = ("CaH", "VO", "MgH", "FeH", "CaOH")


def published(name):
    return read_rows("jaxmdwarf.simulate.molecules", name)


@pytest.mark.parametrize("name", SPECIES)
def test_every_constant_has_a_reference(name):
    for table in ("states", "systems"):
        assert all(len(row["reference"]) > 10 for row in published(f"{name}_{table}.csv"))


def test_dissociation_energies_are_bounded_by_spectroscopy():
    rows = published("dissociation.csv")
    d0 = {row["species"]: float(row["d0_ev"]) for row in rows}
    assert len(d0) == len(rows)
    assert all(row["reference"] for row in rows)
    # Atomisation needs more than the strongest of the bonds; CO is the strongest diatomic bond.
    assert d0["H2O"] > 2 * d0["OH"] > d0["H2O"] - 1.0
    assert d0["TiO2"] < 2 * d0["TiO"]
    assert d0["VO2"] < 2 * d0["VO"]
    assert d0["CaOH"] > d0["OH"] + 3.5
    assert max(d0[k] for k in ("CO", "N2", "SiO", "TiO", "VO", "ZrO", "OH", "CN")) == d0["CO"]
    # A fifth of an electronvolt in CaH is a factor of two in its column at 3300 K.
    assert d0["CaH"] <= 1.77
