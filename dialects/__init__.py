"""What the IR can say: dialects, shardings, sharding rules.

`make_context()` gives an xDSL context with every dialect that autopar reads. Operations, attributes
and types without a class are kept verbatim.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xdsl.context import Context
    from xdsl.ir import Dialect

DIALECTS: dict[str, str] = {
    "builtin": "xdsl.dialects.builtin:Builtin",
    "func": "xdsl.dialects.func:Func",
    "arith": "xdsl.dialects.arith:Arith",
    "tensor": "xdsl.dialects.tensor:Tensor",
    "scf": "xdsl.dialects.scf:Scf",
    "linalg": "xdsl.dialects.linalg:Linalg",
    "stablehlo": "autopar.dialects.stablehlo:StableHLO",
    "chlo": "autopar.dialects.chlo:Chlo",
    "autopar": "autopar.dialects.autopar:Autopar",
    "shard": "autopar.dialects.shard:Shard",
    "mesh": "autopar.dialects.mesh:Mesh",
    "sdy": "autopar.dialects.sdy:Sdy",
    "tosa": "autopar.dialects.tosa:Tosa",
}
"""Dialect name -> "module:attribute", imported when the dialect is first used."""


def _factory(target: str) -> Callable[[], Dialect]:
    module, attribute = target.split(":")

    def load() -> Dialect:
        return getattr(import_module(module), attribute)

    return load


def all_dialects() -> dict[str, Callable[[], Dialect]]:
    """Every dialect that autopar reads, by name, as lazy factories."""
    return {
        name: _factory(target)
        for name, target in DIALECTS.items()
        if find_spec(target.split(":")[0]) is not None
    }


def make_context(*, allow_unregistered: bool = True) -> Context:
    """An xDSL context that knows every dialect; unknown operations are kept as they are."""
    from xdsl.context import Context

    context = Context(allow_unregistered=allow_unregistered)
    for name, factory in all_dialects().items():
        context.register_dialect(name, factory)
    context.load_registered_dialect("builtin")
    return context
