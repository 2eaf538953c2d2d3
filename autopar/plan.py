"""The plan of a program, as data and as a table."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xdsl.dialects.builtin import TensorType

from autopar.dialects.autopar import sharding_of
from autopar.dialects.diagnostics import Diagnostic, collect_remarks
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid, Sharding
from autopar.passes.cost.report import CollectiveUse, collectives_of
from autopar.passes.importing.methods import argument_kinds, main_function
from autopar.passes.partition.partition import GLOBAL

if TYPE_CHECKING:
    from .road import Road


@dataclass(frozen=True)
class PlannedArgument:
    """One flat argument."""

    kind: str
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    sharding: Sharding | None


@dataclass
class Plan:
    """What was decided for a program; `str(plan)` is a table."""

    method: str
    grid: Grid
    arguments: list[PlannedArgument]
    collectives: list[CollectiveUse]
    remarks: list[Diagnostic] = field(default_factory=list[Diagnostic])

    @staticmethod
    def of(road: Road) -> Plan:
        """Reads the plan off the partitioned program."""
        with collect_remarks() as remarks:
            module = road.at("spmd")
        func = main_function(module)
        arguments = [
            PlannedArgument(
                kind,
                _shape(entry.data.get(GLOBAL)),
                _shape(arg.type),
                sharding_of(arg),
            )
            for arg, entry, kind in zip(
                func.body.block.args,
                func.arg_attrs.data if func.arg_attrs else (),
                argument_kinds(func),
                strict=True,
            )
        ]
        return Plan(
            road.options.method, grid_of(module), arguments, list(collectives_of(module)), remarks
        )

    @property
    def collective_bytes(self) -> float:
        """Ring bytes that a device sends in one run (loop bodies counted once)."""
        return sum(c.num_bytes for c in self.collectives)

    def __str__(self) -> str:
        axes = " x ".join(f"{name}={size}" for name, size in self.grid.axes)
        lines = [f"method {self.method} on a mesh of {axes}", "", "arguments"]
        counts: dict[tuple[str, str, str], int] = defaultdict(int)
        for argument in self.arguments:
            dims = "" if argument.sharding is None else str(list(argument.sharding.dim_axes and [
                ",".join(a.spelled for a in dim) or "-" for dim in argument.sharding.dim_axes
            ]))
            shape = "x".join(map(str, argument.shape)) or "scalar"
            counts[(argument.kind, shape, dims)] += 1
        width = max((len(s) for _, s, _ in counts), default=0)
        for (kind, shape, dims), count in counts.items():
            lines.append(f"  {count:4} x {kind:16} {shape:{width}}  {dims}")
        lines += ["", "collectives (ring bytes a device and run)"]
        totals: dict[tuple[str, tuple[str, ...]], list[float]] = defaultdict(lambda: [0, 0.0])
        for use in self.collectives:
            total = totals[(use.kind, use.axes)]
            total[0] += 1
            total[1] += use.num_bytes
        for (kind, names), (count, num_bytes) in sorted(totals.items()):
            over = ", ".join(names)
            lines.append(f"  {int(count):4} x {kind:16} over {over:16} {num_bytes:14,.0f} bytes")
        lines.append(f"  in all {self.collective_bytes:,.0f} bytes")
        return "\n".join(lines)


def _shape(type: object) -> tuple[int, ...]:
    return type.get_shape() if isinstance(type, TensorType) else ()
