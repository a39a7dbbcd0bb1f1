"""What transformers over patches have in common: all of their layers have one grid."""

from __future__ import annotations

from collections.abc import Sequence

from locinv_pl.errors import InputError
from locinv_pl.networks.attention import Grid
from locinv_pl.networks.backbone import Backbone


class PatchBackbone(Backbone):
    """A model whose image tokens are square patches of the latent."""

    @property
    def patch_size(self) -> int:
        """Side, in latent pixels, of what is one token of the image."""
        return int(self.denoiser.config.patch_size)

    def map_grid(self, latent: Sequence[int], resolution: int) -> Grid:
        """See :meth:`Backbone.map_grid`; there is one grid."""
        h, w = (side // self.patch_size for side in latent[-2:])
        if resolution != min(h, w):
            raise InputError(
                f"model.resolution={resolution}: backbone {self.name!r} has no attention of that size "
                f"for latents of {latent[-2]}x{latent[-1]}; use {min(h, w)}"
            )
        return h, w

    def coarsest(self, latent: Sequence[int]) -> int:
        """See :meth:`Backbone.coarsest`."""
        return min(latent[-2:]) // self.patch_size
