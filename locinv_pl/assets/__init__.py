"""Weights that the package ships; README.md says what they are."""

from pathlib import Path

EMBEDDED = Path(__file__).parent / "embedded"
JUDGE = Path(__file__).parent / "judge"
EXAMPLE = Path(__file__).parent / "example"
