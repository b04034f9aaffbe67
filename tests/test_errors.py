from __future__ import annotations

import inspect
import re

import pytest

from ncogym import errors

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
CLASSES = [kind for kind in KINDS if not issubclass(kind, Warning)]
BUILTINS = {
    errors.ArgumentError: ValueError,
    errors.InstanceError: ValueError,
    errors.InvalidSolution: ValueError,
    errors.UnsupportedFeatures: TypeError,
    errors.UnsupportedProblem: TypeError,
    errors.SolverError: RuntimeError,
    errors.SolverNotInstalled: ImportError,
    errors.CheckpointError: RuntimeError,
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_can_be_caught_as_ncogym_error(kind):
    """Every error of the package is an NcogymError and keeps its text."""
    with pytest.raises(errors.NcogymError, match="capacity: -3 is not allowed"):
        raise kind("capacity: -3 is not allowed")


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items(), ids=lambda kind: kind.__name__)
def test_errors_are_also_pythons_own(kind, builtin):
    """Who does not know the tree can catch an error by Python's own name for such a fault."""
    with pytest.raises(builtin):
        raise kind("some fault")


@pytest.mark.parametrize("kind", [errors.NoSolutionFound, errors.SolverNotInstalled], ids=lambda kind: kind.__name__)
def test_solver_errors_hang_together(kind):
    """A solver's faults are caught by one clause."""
    assert issubclass(kind, errors.SolverError)


def test_an_instance_error_is_no_argument_error():
    """A malformed file and a wrong argument can be told apart."""
    assert not issubclass(errors.InstanceError, errors.ArgumentError)
    assert not issubclass(errors.ArgumentError, errors.InstanceError)


def test_the_drawn_tree_is_the_tree():
    """The tree at the top of the module names every error once, each with the built-in that it is."""
    drawn = dict(re.findall(r"[├└]── (\w+)(?:\((\w+)\))?", errors.__doc__))
    assert {kind.__name__ for kind in CLASSES} - {"NcogymError"} == drawn.keys()
    for kind in CLASSES:
        parents = {parent.__name__ for parent in kind.__bases__} - {kind.__name__ for kind in CLASSES}
        if kind is not errors.NcogymError:
            assert parents == ({drawn[kind.__name__]} - {""})
