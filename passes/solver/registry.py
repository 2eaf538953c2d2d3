"""Solvers of third parties, by name.

A plug-in registers a function from a `Problem` to the index of a strategy for each node:

    register_solver("mine", my_solver)

`autopar solve --solver mine` and `auto-shard{solver=mine}` take it; `--load` imports the plug-in.
"""

from __future__ import annotations

from collections.abc import Sequence

from .problem import Problem, ProblemError
from .solve import Plugin

_SOLVERS: dict[str, Plugin] = {}


class UnknownSolverError(ValueError):
    """No solver has the name; the text says which there are."""


def register_solver(name: str, solver: Plugin) -> None:
    """Makes a solver known by a name; one of the same name is replaced. ValueError for the name
    that says that there is none."""
    if name == "none":
        raise ValueError(
            "a solver cannot be named 'none', which means our own: choose another name"
        )
    _SOLVERS[name] = solver


def solver_names() -> list[str]:
    """Of all that are registered."""
    return sorted(_SOLVERS)


def solver_named(name: str) -> Plugin:
    """The solver of a name. UnknownSolverError if nobody registered it."""
    found = _SOLVERS.get(name)
    if found is None:
        known = ", ".join(solver_names()) or "none (--load=MODULE imports a plug-in)"
        raise UnknownSolverError(f"solver {name!r} is unknown; registered: {known}")
    return found


def guarded_solver(name: str) -> Plugin:
    """The solver of a name, with a ProblemError where it fails. UnknownSolverError if nobody
    registered it."""
    solver = solver_named(name)

    def guarded(problem: Problem) -> Sequence[int]:
        try:
            return list(solver(problem))
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            raise ProblemError(
                f"solver {name!r} failed: {type(error).__name__}: {text}".removesuffix(": ")
            ) from error

    return guarded
