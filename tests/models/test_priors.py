"""Priors on labels and on relations among them."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace
from jaxmdwarf.models.priors import (
    LabelPrior,
    RelationPrior,
    choose_priors,
    linearise_priors,
    require_prior_labels,
    whiten_priors,
)

SPACE = LabelSpace.mdwarf()
RELATION = RelationPrior(
    name="logg",
    given=("teff", "mh"),
    powers=((0, 0), (1, 0), (0, 2), (1, 1)),
    coefficients=(4.95, -0.25, 0.03, -0.07),
    sigma=0.06,
    centre=(3300.0, -0.4),
    scale=(400.0, 0.8),
)
PRIORS = (LabelPrior("teff", 3200.0, 40.0), RELATION)
whiten = jax.jit(partial(whiten_priors, PRIORS, SPACE))


def test_residuals_are_those_of_the_polynomial_written_out():
    labels = SPACE.unscale(np.random.default_rng(0).uniform(-0.5, 0.5, (50, 4)))
    teff, logg, mh, _ = labels.T
    x, z = (teff - 3300.0) / 400.0, (mh + 0.4) / 0.8
    expected = 4.95 - 0.25 * x + 0.03 * z**2 - 0.07 * x * z
    found = np.asarray(whiten(np.float32(SPACE.scale(labels))))
    np.testing.assert_allclose(found[:, 0], (3200.0 - teff) / 40.0, atol=1e-4)
    np.testing.assert_allclose(found[:, 1], (expected - logg) / 0.06, atol=1e-4)


def test_other_numbers_ask_for_no_other_program():
    whiten_any = jax.jit(lambda priors, scaled: whiten_priors(priors, SPACE, scaled))
    scaled = np.full((3, 4), 0.1, np.float32)
    others = (LabelPrior("teff", 3300.0, 40.0), replace(RELATION, sigma=0.12, centre=(3300.0, 0.0)))
    first, second = (np.asarray(whiten_any(priors, scaled)) for priors in (PRIORS, others))
    assert whiten_any._cache_size() == 1
    np.testing.assert_allclose(second[:, 0] - first[:, 0], 2.5, rtol=1e-4)
    assert (np.abs(second[:, 1]) < np.abs(first[:, 1])).all()
    assert others != PRIORS
    assert others[0] == LabelPrior("teff", 3300.0, 40.0)


def test_slopes_agree_with_finite_differences():
    linearise = jax.jit(partial(linearise_priors, PRIORS, SPACE))
    at = np.random.default_rng(1).uniform(-0.4, 0.4, (7, 4))
    with jax.enable_x64(True):
        residual, slopes = linearise(at)
        np.testing.assert_allclose(residual, whiten(at), rtol=1e-12)
        assert slopes.shape == (7, 2, 4)
        for index, step in enumerate(1e-6 * np.eye(4)):
            up, down = (np.asarray(whiten(at + s)) for s in (step, -step))
            np.testing.assert_allclose(
                np.asarray(slopes)[..., index], -(up - down) / 2e-6, atol=1e-5
            )


def test_no_priors_are_no_residuals():
    residual, slopes = jax.eval_shape(
        partial(linearise_priors, (), SPACE), np.zeros((3, 4), np.float32)
    )
    assert residual.shape == (3, 0)
    assert slopes.shape == (3, 0, 4)


def test_equal_priors_hash_alike_so_that_programs_are_compiled_once():
    again = replace(RELATION)
    assert again == RELATION
    assert hash(again) == hash(RELATION)
    assert len({PRIORS, (PRIORS[0], again)}) == 1


@pytest.mark.parametrize("changed", [{"name": "mass"}, {"given": ("age", "mh")}])
def test_a_label_that_the_model_lacks_is_named(changed):
    prior = replace(RELATION, **changed)
    with pytest.raises(UsageError, match=r"'(mass|age)' is unknown.*one of teff, logg"):
        require_prior_labels((prior,), SPACE)
    require_prior_labels(PRIORS, SPACE)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigma": 0.0}, "above 0"),
        ({"coefficients": (1.0,)}, "one coefficient a term"),
        ({"powers": ((0,), (1,), (2,), (3,))}, "one coefficient a term"),
        ({"given": ("logg", "mh")}, "twice"),
        ({"scale": (0.0, 1.0)}, "scales above 0"),
        ({"centre": (np.nan, 1.0)}, "finite"),
        ({"powers": ((0, 0), (1, 0), (0, 2), (1, -1))}, "negative powers"),
    ],
)
def test_a_relation_that_makes_no_sense_is_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        replace(RELATION, **changed)


KNOWN = (LabelPrior("mh", -0.1, 0.2), RELATION)


@pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.0, -1.0), (np.nan, 0.2), (0.0, np.inf)])
def test_a_prior_on_one_label_is_made_of_numbers(numbers):
    with pytest.raises(UsageError, match="the prior on mh has"):
        LabelPrior("mh", *numbers)


def test_priors_are_chosen_by_name():
    assert [prior.key for prior in KNOWN] == ["mh", "sequence"]
    for wanted, expected in (
        ("model", KNOWN),
        ("none", ()),
        ((), ()),
        ("sequence", KNOWN[1:]),
        (("mh", "sequence"), KNOWN),
        (("model", "mh"), KNOWN),
        (PRIORS[0], PRIORS[:1]),
        (("mh", PRIORS[0]), (KNOWN[0], PRIORS[0])),
    ):
        assert choose_priors(wanted, KNOWN, SPACE) == (expected, ())


def test_a_name_that_no_prior_has_is_an_error_that_lists_those_there_are():
    with pytest.raises(UsageError, match=r"no prior 'sequense'.*use 'mh', 'sequence', 'model'"):
        choose_priors(("sequense",), KNOWN, SPACE)
    with pytest.raises(UsageError, match="cannot be called 'none'"):
        LabelPrior("mh", 0.0, 1.0, key="none")


def test_a_relation_that_cannot_apply_is_reported_and_the_rest_is_used():
    without = LabelSpace(("teff", "logg"), ("K", "dex"), (2500.0, 4.0), (4500.0, 6.0))
    teff = LabelPrior("teff", 3200.0, 40.0)
    priors, warnings = choose_priors(("model", teff), KNOWN, without)
    assert priors == (teff,)
    assert len(warnings) == 2
    assert "'sequence' on logg was left out: no label mh" in warnings[1]
    # Who names a single label himself has mistyped it.
    with pytest.raises(UsageError, match="'mass' is unknown"):
        choose_priors(LabelPrior("mass", 0.3, 0.1), KNOWN, without)


def test_no_prior_and_one_contradict_each_other():
    space = LabelSpace(("mh",), ("dex",), (-1.0,), (1.0,))
    known = (LabelPrior("mh", 0.0, 0.3),)
    for wanted in (("none", "mh"), (LabelPrior("mh", 0.1, 0.2), "none")):
        with pytest.raises(UsageError, match="leave one of them out"):
            choose_priors(wanted, known, space)
    assert choose_priors(("none",), known, space).priors == ()
