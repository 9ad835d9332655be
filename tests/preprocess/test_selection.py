"""Selection cuts keep what the paper keeps and say why a star fell out."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.preprocess.selection import SelectionConfig, absolute_magnitude, select

COLUMNS = {
    "snr_r": np.array([20.0, 4.0, 20.0, 20.0, 20.0, np.nan, -9999.0, 20.0]),
    "snr_i": np.array([20.0, 20.0, 5.0, 20.0, 20.0, 20.0, 20.0, 20.0]),
    "ruwe": np.array([1.0, 1.0, 1.0, 1.5, 1.4, 1.0, 1.0, np.nan]),
    "m_g": np.array([9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]),
    "bp_rp": np.array([2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
}


def test_every_reason_is_its_own_column():
    chosen = select(COLUMNS)
    assert chosen.keep.tolist() == [True, False, False, False, True, False, False, True]
    failing = {name: np.flatnonzero(rows).tolist() for name, rows in chosen.reasons.items()}
    assert failing["snr_r_outside"] == [1]
    assert failing["snr_r_missing"] == [5, 6]
    assert failing["snr_i_outside"] == [2]
    assert failing["ruwe_outside"] == [3]
    assert "ruwe_missing" not in failing
    assert chosen.counts()["m_g_outside"] == 0
    assert chosen.skipped == ()


@pytest.mark.parametrize(
    ("m_g", "bp_rp", "kept"),
    [(4.0, 2.0, False), (3.0, 2.0, False), (15.0, 2.0, False), (9.0, 0.9, False), (9.0, 5.0, False),
     (9.0, 2.0, True), (np.nan, 2.0, False)],
)  # fmt: skip
def test_giants_and_blue_stars_fall_out(m_g, bp_rp, kept):
    assert select({"m_g": np.array([m_g]), "bp_rp": np.array([bp_rp])}).keep.tolist() == [kept]


def test_missing_values_and_cuts_can_be_chosen():
    strict = select(COLUMNS, SelectionConfig(keep_missing=()))
    assert not strict.keep[7]
    assert strict.reasons["ruwe_missing"][7]
    lenient = select(COLUMNS, SelectionConfig(keep_missing=("ruwe", "snr_r")))
    assert lenient.keep[5]
    off = select(COLUMNS, SelectionConfig(max_ruwe=None))
    assert off.keep[3]
    assert select({"snr_r": np.array([9.0])}).skipped == ("snr_i", "ruwe", "m_g", "bp_rp")


def test_absolute_magnitude():
    m_g = absolute_magnitude(np.array([10.0, 15.0, 15.0]), np.array([100.0, 1.0, -1.0]))
    np.testing.assert_allclose(m_g, [10.0, 5.0, np.nan])


def test_bad_calls_say_why():
    with pytest.raises(UsageError, match="none of the columns"):
        select({"teff": np.array([3000.0])})
    with pytest.raises(MismatchError, match="length"):
        select({"snr_r": np.ones(2), "ruwe": np.ones(3)})
    with pytest.raises(UsageError, match="keep_missing"):
        SelectionConfig(keep_missing=("parallax",))
