"""The page on a Space, whose host decides who comes in: ``python -m locinv_pl.app.space``."""

import os

from locinv_pl.app import build
from locinv_pl.networks.loading import load_backbone

if __name__ == "__main__":
    backbone = load_backbone(os.environ.get("BACKBONE", "embedded"), device=os.environ.get("DEVICE", "cpu"))
    build(backbone).launch(server_name="0.0.0.0", is_public=True)
