"""What `xdsl-opt` sees of autopar: the plug-in that the entry point `xdsl.universe` names.

xDSL refuses to start when two plug-ins offer one name, so names that xDSL or another installed
plug-in already has (`shard`, `stablehlo` of xdsl-jax …) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import XDSL_UNIVERSE, Universe

from .dialects import all_dialects
from .passes import PASSES, load_pass


def _taken() -> tuple[set[str], set[str]]:
    """Dialect and pass names of xDSL and of the other plug-ins."""
    universes = [XDSL_UNIVERSE]
    for entry in entry_points(group="xdsl.universe"):
        if entry.name == "autopar":
            continue
        try:
            universe = entry.load()
        except Exception:  # a broken plug-in is xDSL's to report, not ours
            continue
        if isinstance(universe, Universe):
            universes.append(universe)
    return (
        {name for universe in universes for name in universe.all_dialects},
        {name for universe in universes for name in universe.all_passes},
    )


def _pass_factory(name: str) -> Callable[[], type[ModulePass]]:
    return lambda: load_pass(name)


def _universe() -> Universe:
    dialects, passes = _taken()
    offered: dict[str, Callable[[], Dialect]] = {
        name: factory for name, factory in all_dialects().items() if name not in dialects
    }
    return Universe(
        all_dialects=offered,
        all_passes={name: _pass_factory(name) for name in PASSES if name not in passes},
    )


AUTOPAR_UNIVERSE = _universe()
