"""Solvers of third parties, by name.

A plug-in registers a function from a `Problem` to the index of a strategy for each node:

    register_solver("mine", my_solver)

`autopar solve --solver mine` and `auto-shard{solver=mine}` take it; `--load` imports the plug-in.
"""

from __future__ import annotations

from .solve import Plugin

_SOLVERS: dict[str, Plugin] = {}


class UnknownSolverError(ValueError):
    """No solver has the name; the text says which there are."""


def register_solver(name: str, solver: Plugin) -> None:
    """Makes a solver known by a name; one of the same name is replaced."""
    _SOLVERS[name] = solver


def solver_named(name: str) -> Plugin:
    """The solver of a name. UnknownSolverError if nobody registered it."""
    found = _SOLVERS.get(name)
    if found is None:
        known = ", ".join(sorted(_SOLVERS)) or "none (--load=MODULE imports a plug-in)"
        raise UnknownSolverError(f"solver {name!r} is unknown; registered: {known}")
    return found
