"""``python -m locinv_pl``: the command line."""

from locinv_pl.cli import main

main()
