"""Datasets: where the images, prompts, priors and edits come from."""
