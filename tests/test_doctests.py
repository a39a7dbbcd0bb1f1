"""The examples in docstrings: each is run, and no public function of these modules is without one."""

import doctest
import importlib
import inspect

import pytest
from test_structure import FILES

WITH_EXAMPLES = sorted(name for name, path in FILES.items() if ">>> " in path.read_text())
MODULES = [
    "locinv_pl.api",
    "locinv_pl.method.losses",
    "locinv_pl.networks.schedule",
    "locinv_pl.measures.metrics",
    "locinv_pl.priors",
    "locinv_pl.words",
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0 and results.attempted


def public_functions(name):
    """The functions that a module offers: those in its ``__all__``, or else those that it defines."""
    module = importlib.import_module(name)
    functions = dict(inspect.getmembers(module, inspect.isfunction))
    if hasattr(module, "__all__"):
        return {key: function for key, function in functions.items() if key in module.__all__}
    return {k: f for k, f in functions.items() if f.__module__ == name and not k.startswith("_")}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_an_example(name):
    functions = public_functions(name)
    assert functions
    assert [key for key, function in functions.items() if ">>>" not in (function.__doc__ or "")] == []
