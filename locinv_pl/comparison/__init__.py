"""Comparisons: methods by settings, run, measured against each other and tabled."""
