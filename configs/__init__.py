"""The YAML files that the command line composes."""

from pathlib import Path

CONFIGS = Path(__file__).parent


def presets(group: str) -> list[str]:
    """The names of the files in configs/<group>/, sorted.

    >>> "locinv" in presets("method")
    True

    Args:
        group: such as "method" or "edit".
    """
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
