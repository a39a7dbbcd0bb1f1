"""Measures: of attention maps and images (metrics), of edits, and of models of the drawn world by a judge."""
