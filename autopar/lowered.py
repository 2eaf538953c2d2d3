"""A program on its way, for one signature: `LoweredProgram`."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import Mesh

from autopar.lowering.jax_compat import lowered_parts, program_meshes

from .arguments import Leaf
from .batch import Batch
from .meshes import MeshChoice
from .plans import Plan, Signature
from .road import Road

if TYPE_CHECKING:
    from autopar.dialects.sharding import Grid

    from .call import Lowering
    from .compiled import CompiledProgram


@dataclass(repr=False)
class LoweredProgram:
    """A program for one signature: its levels as text, its plan, and `.compile()`."""

    road: Road
    jax_lowered: Any
    call: Lowering
    outs: list[Any]
    out_tree: Any
    donated: set[int]
    aliases: dict[int, int]
    batch: Batch
    mesh: Mesh
    """The mesh that was found; the program's own annotations may name another."""

    def __repr__(self) -> str:
        axes = " x ".join(f"{name}={size}" for name, size in self.mesh.shape.items())
        return (
            f"<LoweredProgram of method {self.call.request.method.name!r} on a mesh of {axes}: "
            f"{len(self.leaves)} arguments, {len(self.outs)} results; "
            ".plan, .as_text(level), .compile()>"
        )

    @property
    def leaves(self) -> list[Leaf]:
        """What the flat arguments are."""
        return self.call.leaves

    @functools.cached_property
    def parts(self) -> dict[str, Any]:
        """Host callbacks and effects of the program."""
        return lowered_parts(self.jax_lowered)

    @functools.cached_property
    def meshes(self) -> list[Any]:
        """The meshes that the user knows, the given one first."""
        shardings = [s for s in self.call.shardings if s is not None]
        given = [s.mesh for s in shardings] if self.call.request.mesh is None else []
        found = self.call.mesh
        return [
            *([] if found is None else [found]),
            *given,
            *program_meshes(self.jax_lowered),
            self.mesh,
        ]

    def as_text(self, level: str = "stablehlo") -> str:
        """The IR at a level: "stablehlo", "sharded", "decided", "spmd" or "per-device"."""
        from autopar.dialects.text import print_text

        return print_text(self.road.at(level))

    @functools.cached_property
    def plan(self) -> Plan:
        """What was decided: shardings, collectives with bytes, FLOPs."""
        names = [leaf.name for leaf in self.leaves]
        paths, _ = jax.tree_util.tree_flatten_with_path(
            jax.tree.unflatten(self.out_tree, range(len(self.outs)))
        )
        results = [f"result{jax.tree_util.keystr(path)}" for path, _ in paths]
        plan = Plan.of(self.road, self._mesh_of, names, results, self.batch.why)
        plan.signature = Signature(
            self.call.tree,
            tuple(len(aval.shape) for aval in self.call.avals),
            self.out_tree,
            tuple(len(out.shape) for out in self.outs),
        )
        return plan

    def _mesh_of(self, grid: Grid) -> Any:
        return MeshChoice(grid, self.meshes, []).mesh

    def compile(self) -> CompiledProgram:
        """The executable program."""
        from .compiled import CompiledProgram

        return CompiledProgram(self)
