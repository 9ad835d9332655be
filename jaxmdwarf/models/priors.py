"""Priors on labels, before a spectrum is seen: on one label, or on a relation among them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError
from jaxmdwarf.labels import LabelSpace

_KEYS: dict[tuple[str, tuple[str, ...]], str] = {
    ("logg", ("teff",)): "sequence",
    ("alpha_m", ("mh",)): "alpha",
}
"""Names of relations, by the label and the first of those that it depends on."""


class LabelPrior(eqx.Module):
    """A Gaussian prior on one label.

    Its numbers are data of a compiled program, so that priors that differ in them alone share one.

    Parameters
    ----------
    name : str
        Label of the model.
    mean, sigma : float
        In the label's unit.
    key : str
        Name by which it is chosen; that of the label by default.
    """

    name: str = eqx.field(static=True)
    mean: float
    sigma: float
    key: str = eqx.field(static=True, default="")

    def __post_init__(self) -> None:
        self.key = _choose_key(self.key, self.name)
        if not self.sigma > 0:
            raise UsageError(f"the prior on {self.name} has sigma {self.sigma}: give one above 0.")
        if not (math.isfinite(self.mean) and math.isfinite(self.sigma)):
            raise UsageError(
                f"the prior on {self.name} has mean {self.mean} and sigma {self.sigma}.",
                "give finite numbers.",
            )


class RelationPrior(eqx.Module):
    """A Gaussian prior on the distance of one label from a polynomial of others.

    ``name = sum_t coefficients[t] * prod_j x_j ** powers[t][j]``, give or take `sigma`, where
    ``x_j = (given label j - centre[j]) / scale[j]``: gravity along the main sequence as a function
    of temperature and metallicity, say, or the alpha elements as one of metallicity.

    Parameters
    ----------
    name : str
        The label that is tied to the others.
    given : tuple of str
        The others.
    powers : tuple of tuple of int
        One tuple a term: the exponent of each given label.
    coefficients : tuple of float
        One a term, in the unit of the label `name`.
    sigma : float
        Scatter about the relation, in the unit of `name`.
    centre, scale : tuple of float
        Of each given label, in its unit, so that x is of order one and coefficients stay of the
        order of what they describe.
    key : str
        Name by which it is chosen. By default "sequence" where gravity depends on temperature,
        "alpha" where the alpha elements depend on metallicity, else that of the label.

    Raises
    ------
    UsageError
        If the tuples do not match each other, or a number makes no sense.

    Examples
    --------
    log g falls from 5.1 at 3000 K by 0.4 per 1000 K:

    >>> prior = RelationPrior("logg", ("teff",), ((0,), (1,)), (5.1, -0.4), 0.05, (3000.0,), (1e3,))
    >>> labels = jnp.array([[4000.0, 4.7, 0.0, 0.0], [4000.0, 4.8, 0.0, 0.0]])
    >>> space = LabelSpace.mdwarf()
    >>> whiten_priors((prior,), space, space.scale(labels))[:, 0].round(2).tolist()
    [0.0, -2.0]
    """

    name: str = eqx.field(static=True)
    given: tuple[str, ...] = eqx.field(static=True)
    powers: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    coefficients: tuple[float, ...]
    sigma: float
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    key: str = eqx.field(static=True, default="")

    def __post_init__(self) -> None:
        self.key = _choose_key(self.key, _KEYS.get((self.name, self.given[:1]), self.name))
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise UsageError(f"the prior on {self.name} has sigma {self.sigma}: give one above 0.")
        n_given = len(self.given)
        if not (
            len(self.powers) == len(self.coefficients) > 0
            and len(self.centre) == len(self.scale) == n_given
            and all(len(term) == n_given for term in self.powers)
        ):
            raise UsageError(
                f"the relation of {self.name} to {self.given} has {len(self.powers)} terms, "
                f"{len(self.coefficients)} coefficients, {len(self.centre)} centres and "
                f"{len(self.scale)} scales.",
                "give one coefficient a term; in each term one power, and one centre and scale, "
                "for every given label.",
            )
        if self.name in self.given or len(set(self.given)) < n_given:
            raise UsageError(
                f"the relation of {self.name} to {self.given} names a label twice.",
                "tie a label to others, each named once.",
            )
        if any(power < 0 for term in self.powers for power in term):
            raise UsageError(f"the relation of {self.name} has negative powers: {self.powers}.")
        numbers = (*self.coefficients, *self.centre, *self.scale)
        if not all(math.isfinite(number) for number in numbers) or min(self.scale, default=1) <= 0:
            raise UsageError(
                f"the relation of {self.name} has centre {self.centre}, scale {self.scale} and "
                f"coefficients {self.coefficients}.",
                "give finite numbers and scales above 0.",
            )


Prior: TypeAlias = LabelPrior | RelationPrior


def whiten_priors(
    priors: Sequence[Prior], space: LabelSpace, scaled: Float[Array, "n n_label"]
) -> Float[Array, "n n_prior"]:
    """How far labels are from their priors, in sigmas: expected minus label.

    Parameters
    ----------
    priors : sequence of Prior
    space : LabelSpace
    scaled : (n, n_label)
        Scaled labels.

    Returns
    -------
    (n, n_prior)

    Raises
    ------
    UsageError
        If a prior names a label that the space does not have.
    """
    return _whiten(scaled, tuple(priors), space=space)


def linearise_priors(
    priors: Sequence[Prior], space: LabelSpace, scaled: Float[Array, "n n_label"]
) -> tuple[Float[Array, "n n_prior"], Float[Array, "n n_prior n_label"]]:
    """Residuals of `whiten_priors` and minus their exact derivatives by the scaled labels.

    The sign is that of a model's slopes, ``residual = observed - model``: a step ``d`` takes
    ``slopes @ d`` off the residuals.
    """

    return _linearise(scaled, tuple(priors), space=space)


def lacking_labels(prior: Prior, space: LabelSpace) -> tuple[str, ...]:
    """Labels that a prior names and `space` does not have."""
    return tuple(
        name for name in (prior.name, *getattr(prior, "given", ())) if name not in space.names
    )


def require_prior_labels(priors: Sequence[Prior], space: LabelSpace) -> None:
    """Raise `UsageError` unless `space` has every label that the priors name."""
    for prior in priors:
        for name in lacking_labels(prior, space):
            space.index(name)


class PriorChoice(NamedTuple):
    """Priors that a fit uses, and what is to be said of those that it cannot.

    Parameters
    ----------
    priors : tuple of Prior
    warnings : tuple of str
        One sentence for each prior that names a label which the model lacks.
    """

    priors: tuple[Prior, ...]
    warnings: tuple[str, ...] = ()


def choose_priors(
    wanted: str | Prior | Sequence[str | Prior], known: Sequence[Prior], space: LabelSpace
) -> PriorChoice:
    """Priors by name or as they are, those apart that do not apply to the labels of a model.

    Parameters
    ----------
    wanted : str, Prior, or a sequence of them
        "model" stands for all of `known`, "none" for none, another word for those of `known` with
        that key; a prior stands for itself.
    known : sequence of Prior
        Those of the model.
    space : LabelSpace
        Labels of the model.

    Returns
    -------
    PriorChoice
        A relation among labels of which the model lacks one is left out, with a warning: a fit of
        other labels is sound without it, and who asked for it is told.

    Raises
    ------
    UsageError
        If a name is unknown, 'none' is not alone, or a prior on a single label names one that the
        model lacks.

    Examples
    --------
    >>> space = LabelSpace(("teff", "logg"), ("K", "dex"), (2500.0, 4.0), (4500.0, 6.0))
    >>> known = (LabelPrior("teff", 3300.0, 100.0), LabelPrior("logg", 4.9, 0.1))
    >>> [prior.name for prior in choose_priors(("logg",), known, space).priors]
    ['logg']
    >>> relation = RelationPrior("logg", ("mh",), ((0,),), (4.9,), 0.1, (0.0,), (1.0,))
    >>> choose_priors(relation, (), space)
    PriorChoice(priors=(), warnings=("the prior 'logg' on logg was left out: no label mh here.",))
    """
    chosen: list[Prior] = []
    warnings: list[str] = []
    several = (wanted,) if isinstance(wanted, str | LabelPrior | RelationPrior) else tuple(wanted)
    if len(several) > 1 and any(isinstance(one, str) and one == "none" for one in several):
        raise UsageError("'none' and other priors were asked for.", "leave one of them out.")
    for one in several:
        for prior in _look_up(one, known):
            lacking = lacking_labels(prior, space)
            if not lacking and prior not in chosen:
                chosen.append(prior)
            elif lacking and not isinstance(one, LabelPrior):
                warnings.append(
                    f"the prior {prior.key!r} on {prior.name} was left out: no label "
                    f"{' and no '.join(lacking)} here."
                )
            elif lacking:
                space.index(prior.name)
    return PriorChoice(tuple(chosen), tuple(dict.fromkeys(warnings)))


def _look_up(wanted: str | Prior, known: Sequence[Prior]) -> tuple[Prior, ...]:
    if not isinstance(wanted, str):
        return (wanted,)
    if wanted == "none":
        return ()
    if wanted == "model":
        return tuple(known)
    found = tuple(prior for prior in known if prior.key == wanted)
    if not found:
        keys = dict.fromkeys(prior.key for prior in known)
        raise UsageError(
            f"the model has no prior {wanted!r}.",
            f"use {', '.join(map(repr, (*keys, 'model')))} or 'none'.",
        )
    return found


def _choose_key(given: str, otherwise: str) -> str:
    """The key of a prior, which may have been given none; "model" and "none" mean others."""
    key = given or otherwise
    if key in ("model", "none"):
        raise UsageError(f"a prior cannot be called {key!r}.", "give it another key.")
    return key


# Programs of their own, which are traced once for the many places of a fit that hold them.
@partial(jax.jit, static_argnames="space")
def _whiten(scaled, priors: tuple[Prior, ...], *, space: LabelSpace):
    columns = [_one_residual(prior, space, scaled) for prior in priors]
    if not columns:
        return jnp.zeros((scaled.shape[0], 0), scaled.dtype)
    return jnp.stack(columns, axis=-1)


@partial(jax.jit, static_argnames="space")
def _linearise(scaled, priors: tuple[Prior, ...], *, space: LabelSpace):
    def pushed(direction):
        return jax.jvp(
            lambda at: _whiten(at, priors, space=space),
            (scaled,),
            (jnp.broadcast_to(direction, scaled.shape),),
        )

    residual, slopes = jax.vmap(pushed, out_axes=(None, -1))(
        jnp.eye(scaled.shape[-1], dtype=scaled.dtype)
    )
    return residual, -slopes


def _one_residual(prior: Prior, space: LabelSpace, scaled):
    """(relation - label) / sigma; what does not depend on the labels is collected first."""
    index = space.index(prior.name)
    low, high = space.lower[index], space.upper[index]
    middle, width = 0.5 * (low + high), high - low
    if isinstance(prior, LabelPrior):
        return (prior.mean - middle) / prior.sigma - (width / prior.sigma) * scaled[:, index]
    xs = []
    for name, centre, scale in zip(prior.given, prior.centre, prior.scale, strict=True):
        other = space.index(name)
        low, high = space.lower[other], space.upper[other]
        xs.append((0.5 * (low + high) - centre) / scale + (high - low) / scale * scaled[:, other])
    expected = -width * scaled[:, index]
    constant = -middle
    for coefficient, powers in zip(prior.coefficients, prior.powers, strict=True):
        factors = itertools.chain.from_iterable(
            itertools.repeat(x, power) for x, power in zip(xs, powers, strict=True)
        )
        term = math.prod(factors, start=coefficient)
        if any(powers):
            expected = expected + term
        else:
            constant += coefficient
    return (expected + constant) / prior.sigma
