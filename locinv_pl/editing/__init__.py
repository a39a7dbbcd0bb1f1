"""Edits of an inverted image by its attention maps, and by others' pipelines."""
