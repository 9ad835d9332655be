"""A survey of a seed stays what it is; see `seeded_survey`, which tells why and writes it anew."""

import json

import pytest

from tests.simulate.seeded_survey import NUMBERS, describe

KEPT = json.loads(NUMBERS.read_text())


@pytest.fixture(scope="module")
def found():
    return describe()


@pytest.mark.parametrize("table", KEPT)
def test_a_survey_of_a_seed_stays_what_it_is(found, table):
    assert found[table].keys() == KEPT[table].keys()
    loose = 1e-4 if table == "spectra" else 1e-6
    for name, kept in KEPT[table].items():
        if isinstance(kept, dict):
            assert found[table][name] == kept, name
        else:
            assert found[table][name] == pytest.approx(kept, rel=loose, abs=1e-12), name
