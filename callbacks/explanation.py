"""What an edit was made of, told in its report: the words that changed, its settings, and the command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from locinv_pl.editing.settings import EditSettings, as_word, changed
from locinv_pl.words.alignment import common_words

OWN = {"weights", "blended_words", "region"}  # keys that an edit has besides its settings' own


def changed_words(source: str, target: str) -> list[tuple[str, str]]:
    """The stretches of words that differ, as (the source's, the target's); "" where one has no words there.

    >>> changed_words("a red cat on grass", "a tiger on wet grass")
    [('red cat', 'tiger'), ('', 'wet')]
    """
    mine, yours = (list(re.finditer(r"\w+", prompt)) for prompt in (source, target))
    pairs = common_words([word[0].lower() for word in mine], [word[0].lower() for word in yours])
    found, i, j = [], 0, 0
    for m, n in [*pairs, (len(mine), len(yours))]:
        if i < m or j < n:
            gone = source[mine[i].start() : mine[m - 1].end()] if i < m else ""
            found.append((gone, target[yours[j].start() : yours[n - 1].end()] if j < n else ""))
        i, j = m + 1, n + 1
    return found


def settings_of(row: Mapping[str, Any]) -> EditSettings | None:
    """The settings of an edit in edits.json; None where another editor or another version made it.

    Args:
        row: the edit.

    >>> settings_of({"settings": {"blend": "prior", "weights": [["red", 2, 5, 1.5]]}}).blend
    'prior'
    >>> settings_of({"settings": {"strength": 0.8}}) is None
    True
    """
    values = {key: value for key, value in row["settings"].items() if key not in OWN}
    if values.keys() - {field.name for field in fields(EditSettings)}:
        return None
    try:
        return EditSettings(**values)
    except (ValueError, TypeError, AttributeError):  # a damaged or foreign file's
        return None


def weights_of(row: Mapping[str, Any]) -> list[tuple[str, int, int, float]]:
    """The words of an edit's prompt that have weights: each word, its characters from start to stop, and the factor.

    Args:
        row: the edit, as edits.json has it; what isn't as this package writes it is left out.

    >>> weights_of({"prompt": "a red cat", "settings": {"weights": [["red", 2, 5, 1.5], ["cat", 2]]}})
    [('red', 2, 5, 1.5)]
    """
    found = []
    for weight in row["settings"].get("weights") or ():
        match weight:
            case [str(word), int(start), int(stop), int() | float() as factor] if row["prompt"][start:stop] == word:
                found.append((word, start, stop, float(factor)))
    return found


def edit_command(run: Path, id: str, row: Mapping[str, Any]) -> str | None:
    """The command line that makes an edit again; settings with their defaults go unsaid.

    Args:
        run: the run's folder.
        id: the image's.
        row: the edit, as edits.json has it.

    Returns:
        the command; None for edits of other editors, in a region, or with blended words of the data, which
        ``locinv edit`` can't make from these files alone.

    >>> row = {"prompt": "a red cat", "settings": {"blend": "prior", "weights": [["red", 2, 5, 1.5]]}}
    >>> print(edit_command(Path("outputs/my run"), "p0", row))
    locinv edit 'outputs/my run' image=p0 'prompt=a (red:1.5) cat' edit.blend=prior
    """
    settings, own = settings_of(row), row["settings"]
    if settings is None or "region" in own or "blended_words" in own:
        return None
    prompt = row["prompt"]
    for _, start, stop, factor in sorted(weights_of(row), key=lambda weight: -weight[1]):
        prompt = f"{prompt[:start]}({prompt[start:stop]}:{factor:g}){prompt[stop:]}"
    words = [str(run), f"image={id}", f"prompt={prompt}"]
    words += [f"edit.{key}={as_word(value)}" for key, value in changed(settings).items()]
    return " ".join(["locinv edit", *map(shlex.quote, words)])
