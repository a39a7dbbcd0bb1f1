"""Datasets: where the pictures, prompts, priors and edits come from."""
