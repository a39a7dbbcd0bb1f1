"""Garbage: what was there before is left alone for a while, what comes is not."""

import gc
import weakref

import pytest

from locinv_pl.networks.memory import freeze_gc


@pytest.fixture(autouse=True)
def as_elsewhere(monkeypatch):
    """conftest.py limits the search in all tests but these."""
    monkeypatch.setattr("locinv_pl.networks.memory._limited", False)
    gc.unfreeze()
    yield
    gc.freeze()


class Ring:
    """Garbage that only a search finds."""

    def __init__(self):
        self.itself = self


def test_only_young_garbage_is_looked_for():
    gc.collect()
    old = weakref.ref(Ring())
    with freeze_gc():
        young = weakref.ref(Ring())
        gc.collect()
        assert old() is not None and young() is None
    gc.collect()
    assert old() is None


def test_the_search_is_as_before_after_an_exception_and_where_it_was_limited_already():
    with pytest.raises(RuntimeError, match="on purpose"), freeze_gc():
        raise RuntimeError("on purpose")
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        with freeze_gc():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_a_function_too():
    assert gc.get_freeze_count() == 0
    assert freeze_gc()(gc.get_freeze_count)() > 0
