"""What a refusal of bad input looks like."""

from collections.abc import Callable

import pytest

from locinv_pl.errors import InputError


def refused(read: Callable[[], object], *parts: str) -> None:
    """``read`` has to end in one line that says all of ``parts``."""
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
