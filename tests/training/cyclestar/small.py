"""Networks as small as they can be."""

from dataclasses import replace

from jaxmdwarf.networks.convolution import ConvLayers
from jaxmdwarf.networks.cyclestar import CycleStarSizes


def small_sizes(n_pix, **changes):
    """Sizes of networks for spectra of `n_pix` pixels, with one layer where more are possible."""
    sizes = CycleStarSizes(
        n_pix=n_pix,
        domain=ConvLayers((4,), (4,), (4,)),
        shared=ConvLayers((6,), (3,), (2,)),
        split_channels=(3,),
        shared_latents=3,
        split_latents=2,
        critic_flux=ConvLayers((4,), (4,), (4,)),
        critic_latents=(4,),
    )
    return replace(sizes, **changes)
