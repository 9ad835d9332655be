"""The observed domain: splits lose nothing, errors are floored, bad input is named at once."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.training.transfer.domain import (
    ObservedDomain,
    _move_to_training,
    floor_errors,
    split_domain,
)
from jaxmdwarf.wavelengths import PixelGrid

GRID = PixelGrid.linear(7000.0, 7039.0, 1.0)


def make_domain(n_spec=12, **changed):
    rng = np.random.default_rng(0)
    values = {
        "flux": rng.normal(1.0, 0.1, (n_spec, GRID.n_pix)).astype(np.float32),
        "ivar": np.full((n_spec, GRID.n_pix), 100.0, np.float32),
        "information": np.full((n_spec, GRID.n_pix), 100.0, np.float32),
        "grid": GRID,
        "frame_kms": np.zeros(n_spec),
        "snr": np.full(n_spec, 10.0),
        "names": tuple(f"star-{row}" for row in range(n_spec)),
    }
    return ObservedDomain(**{**values, **changed})


@pytest.mark.parametrize("n_spec", [11, 57, 110, 1103])
def test_every_row_is_in_exactly_one_part_in_the_ratio_of_the_paper(n_spec):
    split = split_domain(n_spec, seed=3)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(n_spec))
    for rows, share in zip(split, (8, 2, 1), strict=True):
        assert abs(len(rows) - n_spec * share / 11) <= 1
        assert (np.diff(rows) > 0).all()


def test_all_spectra_of_a_star_are_in_one_part():
    star = np.random.default_rng(0).integers(0, 150, 400)
    split = split_domain(400, seed=3, star=star)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(400))
    parts = [set(star[rows]) for rows in split]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert abs(len(split.train) - 400 * 8 / 11) < 10
    alone = split_domain(400, seed=3, star=np.arange(400))
    assert np.array_equal(alone.train, split_domain(400, seed=3).train)


def test_the_seed_alone_decides_the_split():
    first, again, other = (split_domain(200, seed=seed).train for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_spectra_are_counted_and_the_remedy_gives_a_number_that_works():
    with pytest.raises(MismatchError, match="20 usable spectra") as caught:
        split_domain(20, seed=0, least=(16, 2, 1))
    enough = int(caught.value.remedy.split("at least ")[1].split(" ")[0])
    assert len(split_domain(enough, seed=0, least=(16, 2, 1)).train) >= 16
    with pytest.raises(UsageError, match="shares"):
        split_domain(20, seed=0, shares=(0, 1, 1))


def test_errors_are_floored_and_large_ones_masked():
    sigma = np.array([[0.001, 0.005, 0.02, 0.0499, 0.0501, 0.3]])
    ivar = np.append(sigma**-2, [[0.0]], axis=1)
    floored = floor_errors(ivar, floor=0.005, largest=0.05)
    assert np.allclose(floored[0, :4] ** -0.5, [0.005, 0.005, 0.02, 0.0499])
    assert (floored[0, 4:] == 0).all()
    assert np.array_equal(floor_errors(ivar, floor=None), ivar)
    assert floor_errors(ivar.astype(np.float32), largest=0.05).dtype == np.float32
    with pytest.raises(UsageError, match="floor"):
        floor_errors(ivar, floor=0.0)


@pytest.mark.parametrize(
    ("field", "value"), [("flux", np.nan), ("ivar", np.nan), ("ivar", -1.0), ("flux", np.inf)]
)
def test_values_that_are_no_numbers_are_refused_with_the_name_of_the_spectrum(field, value):
    values = np.array(getattr(make_domain(), field))
    values[5, 7] = value
    with pytest.raises(MismatchError, match="star-5"):
        make_domain(**{field: values})


def test_another_pixel_grid_is_refused():
    with pytest.raises(MismatchError, match=r"\(12, 39\)"):
        make_domain(grid=PixelGrid.linear(7000.0, 7038.0, 1.0))


def test_rows_stay_together():
    domain = make_domain()
    part = domain.take([7, 2])
    assert part.names == ("star-7", "star-2")
    assert np.array_equal(np.asarray(part.batch().flux), domain.flux[[7, 2]])
    assert np.array_equal(np.asarray(domain.batch([2]).ivar), domain.ivar[[2]])


def test_stars_that_are_known_are_learned_from_unless_too_few_others_are_left():
    star = np.random.default_rng(0).integers(0, 150, 400)
    without = split_domain(400, seed=3, star=star)
    known = np.zeros(400, bool)
    known[without.test[:3]] = known[without.validation[:9]] = True
    split = split_domain(400, seed=3, star=star, anchored=known)
    assert set(np.flatnonzero(np.isin(star, star[known]))) <= set(split.train)
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(400))
    parts = [set(star[rows]) for rows in split]
    assert sum(map(len, parts)) == len(set.union(*parts))
    # Nobody else changes sides.
    unmoved = ~np.isin(star, star[known])
    for before, after in zip(without[1:], split[1:], strict=True):
        assert np.array_equal(before[unmoved[before]], after)
    everyone = split_domain(400, seed=3, star=star, anchored=np.ones(400, bool))
    assert all(map(np.array_equal, everyone, without))


def test_known_stars_are_not_taken_from_parts_that_would_be_left_without_good_ones():
    without = split_domain(400, seed=3)
    known, good = np.zeros(400, bool), np.zeros(400, bool)
    good[without.train] = good[without.test] = good[without.validation[:25]] = True
    known[without.validation[:6]] = True
    nineteen = split_domain(400, seed=3, anchored=known, good=good, least=(60, 20, 1))
    assert all(map(np.array_equal, nineteen, without))
    known[without.validation[5]] = False
    twenty = split_domain(400, seed=3, anchored=known, good=good, least=(60, 20, 1))
    assert set(without.validation[:5]) <= set(twenty.train)


def test_spectra_without_names_are_told_by_their_row_and_none_at_all_are_a_domain():
    domain = make_domain()
    flux = domain.flux.copy()
    flux[[4, 6], 3] = np.nan
    with pytest.raises(MismatchError, match=r"of 2 observed spectra .* row 4 among them"):
        make_domain(flux=flux, names=())
    assert domain.take(np.zeros(0, np.int64)).n_spec == 0
    with pytest.raises(MismatchError, match="11 names"):
        make_domain(names=domain.names[:-1])
    for given in ({"floor": -0.1}, {"largest": -0.1}, {"largest": 0.0}):
        with pytest.raises(UsageError, match="must be positive"):
            floor_errors(domain.ivar, **given)


def test_stars_move_to_training_as_long_as_half_of_each_other_part_stays():
    part = np.repeat([0, 1, 2], [4, 4, 3])
    number = np.array([0, 0, 1, 2, 3, 3, 4, 5, 6, 7, 8])
    good, least = np.ones(11, bool), (1, 1, 1)
    moved = _move_to_training(part, number, np.isin(np.arange(11), [4, 8]), good, least)
    assert moved.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2]
    # Three of four, and two of three, would be too many.
    for anchored in ([4, 6], [8, 9]):
        same = _move_to_training(part, number, np.isin(np.arange(11), anchored), good, least)
        np.testing.assert_array_equal(same, part)


def test_parts_have_their_shares_and_least_sizes():
    split = split_domain(100, seed=1, shares=(1, 0, 3), least=(25, 7, 75))
    assert [len(rows) for rows in split] == [25, 0, 75]
    with pytest.raises(
        MismatchError, match=r"split 1:0:3 they give 25 .* 75 to test; 26, 0 and 75"
    ):
        split_domain(100, seed=1, shares=(1, 0, 3), least=(26, 7, 75))
    with pytest.raises(UsageError, match="shares"):
        split_domain(10, seed=1, shares=(8, -1, 1))
    # A star of many visits at the border goes to the later part; the others fill up to it.
    star = np.repeat(np.arange(10), 10)
    sizes = [len(rows) for rows in split_domain(100, seed=0, shares=(55, 25, 20), star=star)]
    assert sizes == [50, 30, 20]
    # And the number that is asked for is enough wherever the most visited star is.
    star = np.r_[np.zeros(9, int), np.arange(1, 12)]
    with pytest.raises(MismatchError) as caught:
        split_domain(20, seed=0, star=star, least=(8, 6, 1))
    enough = int(caught.value.remedy.split("at least ")[1].split(" ")[0])
    more = np.r_[star, np.arange(12, 12 + enough - 20)]
    for seed in range(30):
        split_domain(enough, seed=seed, star=more, least=(8, 6, 1))
    # An eleventh of them is to hold one, and eight that the star may have had.
    assert enough == (1 + 8) * 11 + 1


def test_errors_at_the_limits_are_kept_as_they_are():
    ivar = np.array([[4.0, 16.0, 0.25, 3.9]])
    assert floor_errors(ivar, floor=0.25, largest=0.5).tolist() == [[4.0, 16.0, 0.0, 0.0]]
    assert floor_errors(ivar, floor=0.5, largest=2.0).tolist() == [[4.0, 4.0, 0.25, 3.9]]
    assert floor_errors(np.array([[1e9]])).tolist() == [[0.005**-2]]


def test_all_of_a_spectrum_is_taken_and_shapes_must_agree():
    rng = np.random.default_rng(1)
    domain = make_domain(
        information=rng.uniform(1, 2, (12, GRID.n_pix)).astype(np.float32),
        ivar=rng.uniform(1, 2, (12, GRID.n_pix)).astype(np.float32),
        frame_kms=np.arange(12.0), snr=np.arange(12.0) + 20, star=np.arange(12) // 2,
    )  # fmt: skip
    rows = [7, 2, 2]
    part = domain.take(rows)
    for name in ("flux", "ivar", "information", "frame_kms", "snr", "star"):
        np.testing.assert_array_equal(getattr(part, name), getattr(domain, name)[rows])
    assert make_domain(names=()).take(rows).names == ()
    batch = domain.batch(rows)
    for name in ("flux", "ivar", "information"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(domain, name)[rows])
    assert domain.batch().n_spec == 12
    # Annotations are checked before, in tests alone.
    check = ObservedDomain.__post_init__
    for wrong, match in (
        ({"frame_kms": np.zeros(11)}, "12 spectra, but .11,. velocities"),
        ({"snr": np.zeros(13)}, "13,. S/N"),
        ({"star": np.arange(11)}, "stars of .11,."),
        ({"information": domain.information[:11]}, "information"),
        ({"ivar": domain.ivar[:, 1:]}, "ivar"),
    ):
        with pytest.raises(MismatchError, match=match):
            check(SimpleNamespace(**{**vars(domain), **wrong}))
