"""Measures: of maps, of edits, of models."""
