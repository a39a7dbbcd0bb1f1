"""The YAML files that the command line composes."""

from pathlib import Path

CONFIGS = Path(__file__).parent
