"""The observed domain: splits lose nothing, errors are floored, bad input is named at once."""

import numpy as np
import pytest

from jaxmdwarf.errors import MismatchError, UsageError
from jaxmdwarf.training.transfer.domain import ObservedDomain, floor_errors, split_domain
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
