"""``python -m locinv_pl``: the command line."""

from locinv_pl.cli.main import main

main()
