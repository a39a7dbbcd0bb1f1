"""Invert images: ``python train.py data=scenes``; see README.md, or ``python train.py --help``."""

from locinv_pl.cli.main import main

if __name__ == "__main__":
    main()
