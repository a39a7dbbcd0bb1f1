"""Methods side by side on the same images: the runs, the statistics over them, and the tables."""
