"""Choices that a Literal allows."""

from dataclasses import dataclass
from typing import Literal

import pytest

from locinv_pl.errors import InputError, check_choice, check_choices

Shade = Literal["light", "dark"]


@dataclass(frozen=True)
class Paint:
    """Two fields with choices, one without."""

    shade: Shade = "dark"
    coats: Literal[1, 2] = 1
    name: str = "anything"


def test_all_choices_pass():
    for shade in ("light", "dark"):
        check_choices(Paint(shade, 2, "whatever"))
        check_choice("shade", shade, Shade)


@pytest.mark.parametrize(
    ("paint", "where", "message"),
    [
        (Paint("loud"), "", "shade=loud: no such shade; choose one of light, dark"),
        (Paint("light", 3), "wall.paint", "wall.paint.coats=3: no such coats; choose one of 1, 2"),
        (Paint(None), "wall", "wall.shade=None: no such shade; choose one of light, dark"),
    ],
)
def test_others_are_refused_by_key_value_and_choices(paint, where, message):
    with pytest.raises(InputError) as caught:
        check_choices(paint, where)
    assert str(caught.value) == message
