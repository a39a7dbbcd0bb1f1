"""Drawn scenes: objects on a background with exact masks, a caption and edits, from one source of chance."""
