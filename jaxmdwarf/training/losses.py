"""What training minimises, and what it is judged by."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def reconstruction_error(
    model_flux: Float[Array | np.ndarray, "*batch n_pix"],
    recon_flux: Float[Array | np.ndarray, "*batch n_pix"],
    good: Bool[Array | np.ndarray, "n_pix"] | None = None,
) -> Float[Array, "*batch"]:
    """Mean absolute fractional error of emulated spectra (paper, eq. 1).

    Parameters
    ----------
    model_flux : (..., n_pix)
        Spectra of the model grid, positive.
    recon_flux : (..., n_pix)
        The same as the emulator gives them.
    good : (n_pix,) bool, optional
        Pixels that count; all by default.

    Returns
    -------
    (...)
        A fraction, not per cent.

    Examples
    --------
    >>> float(reconstruction_error(jnp.array([1.0, 2.0]), jnp.array([1.5, 1.0])))
    0.5
    """
    model_flux, recon_flux = jnp.asarray(model_flux), jnp.asarray(recon_flux)
    fraction = jnp.abs(model_flux - recon_flux) / model_flux
    if good is None:
        return fraction.mean(axis=-1)
    return jnp.where(good, fraction, 0).sum(axis=-1) / jnp.sum(jnp.asarray(good))


def mean_square_error(
    target: Float[Array, "n_row n_out"],
    output: Float[Array, "n_row n_out"],
    weight: Float[Array, "n_row"] | None = None,
) -> Float[Array, ""]:
    """Squared distance of each row, summed over outputs, in the (weighted) mean over rows.

    On coefficients of an orthonormal basis this equals the squared distance in pixels, less the
    constant part that the basis cannot express.

    Parameters
    ----------
    target, output : (n_row, n_out)
    weight : (n_row,), optional
        Of each row; all alike by default.
    """
    distance = jnp.sum((output - target) ** 2, axis=-1)
    if weight is None:
        return distance.mean()
    return jnp.sum(weight * distance) / jnp.sum(weight)


def mean_distance(
    target: Float[Array, "n_row n_out"], output: Float[Array, "n_row n_out"]
) -> Float[Array, ""]:
    """Distance of each row, in the mean over rows.

    Close to what eq. 1 measures, and unlike the squared distance not ruled by the one or two rows
    at the edge of a grid that fare worst.

    Parameters
    ----------
    target, output : (n_row, n_out)
    """
    return jnp.mean(jnp.linalg.norm(output - target, axis=-1))
