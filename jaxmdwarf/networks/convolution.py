"""Strided convolutions, channels last, as matrix products or by the library.

They are slices and one matrix product by default: inside `jax.lax.scan` XLA's own convolution is
many times slower on a CPU. XLA's own is there by option, and so are products of fewer digits.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmdwarf.errors import UsageError

Precision: TypeAlias = Literal["float32", "tf32", "bf16"]
"""Factors of matrix products: as they are; with the 10-bit mantissas of NVIDIA's matrix units (full
ones on devices without them); or as bfloat16, products rounded to it too. Sums inside a product and
everything between products are float32 in all three."""

ConvolutionForm: TypeAlias = Literal["auto", "product", "library"]
"""Slices and one matrix product, or XLA's own convolution (cuDNN's on a GPU). "auto" is the product
until the other has been measured to be faster on some device."""


@dataclass(frozen=True)
class ConvLayers:
    """Strided convolutions in the order of an encoder; decoders run them backwards.

    Parameters
    ----------
    channels : tuple of int
        Channels that leave each layer.
    kernels : tuple of int
        Pixels that each layer sees at once; at least the stride.
    strides : tuple of int
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.kernels) == len(self.strides) > 0:
            raise UsageError(
                f"channels {self.channels}, kernels {self.kernels} and strides {self.strides} "
                "do not describe the same layers.",
                "give one of each for every layer.",
            )
        if min(*self.channels, *self.strides) < 1:
            raise UsageError(f"channels {self.channels} and strides {self.strides} must be >= 1.")
        if any(k < s for k, s in zip(self.kernels, self.strides, strict=True)):
            raise UsageError(
                f"kernels {self.kernels} are shorter than strides {self.strides}: pixels between "
                "them would never be seen.",
                "make each kernel at least as long as its stride.",
            )

    def shorten(self, length: int) -> int:
        """Length after all layers of an input of `length`, without padding."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            length = (length - kernel) // stride + 1
        return length

    def lengthen(self, length: int) -> int:
        """Length of the input whose every pixel is used and that leaves `length`."""
        for kernel, stride in zip(self.kernels[::-1], self.strides[::-1], strict=True):
            length = (length - 1) * stride + kernel
        return length

    def __add__(self, other: "ConvLayers") -> "ConvLayers":
        return ConvLayers(
            self.channels + other.channels,
            self.kernels + other.kernels,
            self.strides + other.strides,
        )

    def fit_length(self, length: int) -> int:
        """Smallest length >= `length` of which every pixel is used."""
        shortest = 1
        while self.lengthen(shortest) < length:
            shortest += 1
        return self.lengthen(shortest)


def convolve_strided(
    inputs: Float[Array, "n length c_in"],
    kernel: Float[Array, "k c_in c_out"],
    stride: int,
    *,
    precision: Precision = "float32",
    convolution: ConvolutionForm = "product",
) -> Float[Array, "n length_out c_out"]:
    """Strided convolution without padding.

    Equal to ``lax.conv_general_dilated(inputs, kernel, (stride,), "VALID",
    dimension_numbers=("NWC", "WIO", "NWC"))``.

    Parameters
    ----------
    inputs : (n, length, c_in)
    kernel : (k, c_in, c_out)
    stride : int
    precision : {"float32", "tf32", "bf16"}
        See `Precision`.
    convolution : {"product", "library", "auto"}
        See `ConvolutionForm`; layers of one pixel are matrix products in either form.

    Returns
    -------
    (n, (length - k) // stride + 1, c_out)
    """
    n, length, c_in = inputs.shape
    k, _, c_out = kernel.shape
    if k > 1 and _uses_library(convolution):
        return _round_products(
            lambda left, right, digits: jax.lax.conv_general_dilated(
                left,
                right,
                (stride,),
                "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                precision=digits,
            ),
            inputs,
            kernel,
            precision,
        )
    n_out = (length - k) // stride + 1
    if k == 1 and stride == 1:
        windows = inputs
    else:
        # Blocks of `stride` neighbours: a window is then a few whole blocks and part of another,
        # all contiguous, instead of k strided slices.
        n_whole, rest = divmod(k, stride)
        n_block = n_out + n_whole - (rest == 0)
        short = n_block * stride - length
        inputs = jnp.pad(inputs, ((0, 0), (0, short), (0, 0))) if short > 0 else inputs
        blocks = inputs[:, : n_block * stride].reshape(n, n_block, stride * c_in)
        pieces = [blocks[:, j : j + n_out] for j in range(n_whole)]
        if rest:
            pieces.append(blocks[:, n_whole : n_whole + n_out, : rest * c_in])
        windows = jnp.concatenate(pieces, axis=-1) if len(pieces) > 1 else pieces[0]
    product = multiply_rounded(
        windows.reshape(n * n_out, k * c_in), kernel.reshape(k * c_in, c_out), precision
    )
    return product.reshape(n, n_out, c_out)


def convolve_transposed(
    inputs: Float[Array, "n length c_in"],
    kernel: Float[Array, "c_in k c_out"],
    stride: int,
    *,
    precision: Precision = "float32",
    convolution: ConvolutionForm = "product",
) -> Float[Array, "n length_out c_out"]:
    """The transpose of a strided convolution; as a product, with shifted sums after it.

    Each input position adds `k` output pixels, `stride` pixels after those of its neighbour.

    Parameters
    ----------
    inputs : (n, length, c_in)
    kernel : (c_in, k, c_out)
    stride : int
    precision, convolution
        As of `convolve_strided`.

    Returns
    -------
    (n, (length - 1) * stride + k, c_out)
    """
    n, length, c_in = inputs.shape
    _, k, c_out = kernel.shape
    if _uses_library(convolution):
        return _round_products(
            lambda left, right, digits: jax.lax.conv_transpose(
                left,
                right,
                (stride,),
                "VALID",
                dimension_numbers=("NWC", "WIO", "NWC"),
                transpose_kernel=True,
                precision=digits,
            ),
            inputs,
            kernel.transpose(1, 2, 0),
            precision,
        )
    product = multiply_rounded(
        inputs.reshape(n * length, c_in), kernel.reshape(c_in, k * c_out), precision
    )
    product = product.reshape(n, length, k * c_out)
    width = stride * c_out
    n_block = -(-k // stride)
    widths = [width] * (n_block - 1) + [k * c_out - (n_block - 1) * width]
    total: Array | None = None
    # Split, not sliced: the gradient is then put together by copying instead of by adding.
    for j, piece in enumerate(jax.lax.split(product, widths, axis=2)):
        padding = ((0, 0), (j, n_block - 1 - j), (0, width - widths[j]))
        piece = jnp.pad(piece, padding)
        total = piece if total is None else total + piece
    assert total is not None
    pixels = total.reshape(n, (length + n_block - 1) * stride, c_out)
    return pixels[:, : (length - 1) * stride + k]


def multiply_rounded(
    left: Float[Array, "n k"], right: Float[Array, "k m"], precision: Precision
) -> Float[Array, "n m"]:
    """Matrix product whose factors are rounded as `precision` says; the result is not."""
    return _round_products(
        lambda left, right, digits: jnp.matmul(left, right, precision=digits),
        left,
        right,
        precision,
    )


def _round_products(multiply, left, right, precision):
    """``multiply(left, right, digits)`` with factors of the precision asked for, as float32."""
    if precision == "bf16":
        narrow = multiply(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), None)
        return narrow.astype(left.dtype)
    # Left to themselves some accelerators take 10-bit mantissas, which would reach the fitted flux.
    exact = precision == "float32"
    digits = jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT
    return multiply(left, right, digits)


def _uses_library(convolution):
    if convolution == "auto":
        return False
    return convolution == "library"
