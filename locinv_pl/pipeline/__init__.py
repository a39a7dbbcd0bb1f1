"""Inversion and edits as a pipeline of diffusers."""

from locinv_pl.pipeline.pipeline import LocInvPipeline, LocInvPipelineOutput

__all__ = ["LocInvPipeline", "LocInvPipelineOutput"]
