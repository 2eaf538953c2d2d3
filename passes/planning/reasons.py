"""Who decided where a place lies: the program, an option, the grid, or the search."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from xdsl.ir import OpResult

from autopar.dialects.autopar import aliases
from autopar.dialects.sharding import Sharding
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds

from .demands import Demands
from .naming import ValueNames, place_of_op
from .places import MOVES
from .plan_graph import PlanGraph


@dataclass(frozen=True)
class Reason:
    """A statement that binds a place."""

    by: str
    """user, or option."""
    text: str


class Reasons:
    """What binds each node of a graph."""

    def __init__(
        self, graph: PlanGraph, demands: Demands, names: ValueNames, stated_by: str
    ) -> None:
        self._graph, self._demands, self._names = graph, demands, names
        self._stated_by = stated_by
        self._of: dict[int, list[Reason]] = defaultdict(list)
        self.kinds = argument_kinds(graph.func)
        self._find_arguments()
        self._find_constraints()

    def of(self, node: int) -> list[Reason]:
        return self._of[node]

    def _find_arguments(self) -> None:
        graph, func = self._graph, self._graph.func
        result_of = dict(aliases(func))
        args, said_of = func.body.block.args, graph.stated.of_argument
        for arg, kind, said in zip(args, self.kinds, said_of, strict=True):
            node = graph.node_of(arg)
            if node is None:
                continue
            if said is None:
                if not self._demands.allow_replicated_parameters and kind in STATE_KINDS:
                    self._add(node, "option", "allow-replicated-parameters=false: it is not whole")
                continue
            dims = _dims(said.sharding)
            if said.by == "option":
                self._add(node, "option", f"{self._option(kind)} demands {dims} of it")
            elif said.by == "argument":
                self._add(node, "user", f"{self._stated_by} states {dims} for this argument")
            else:
                name = self._names.results[result_of[arg.index]]
                text = f"{self._stated_by} states {dims} for {name}, which takes its buffer"
                self._add(node, "user", text)

    def _find_constraints(self) -> None:
        for value, stated in self._graph.stated.of_values.items():
            node = self._graph.node_of(value)
            if node is None or not isinstance(value, OpResult):
                continue
            if value.op.name in MOVES:
                where = place_of_op(value.op)
                at = f" at {where}" if where else ""
                self._add(node, "user", f"the constraint{at} says {_dims(stated)}")
            else:
                what = self._names.of(value)
                self._add(node, "user", f"{self._stated_by} states {_dims(stated)} for {what}")

    def _option(self, kind: str) -> str:
        demands = self._demands
        if demands.force_data_parallel and (kind == "batch" or demands.zero is None):
            return "force-data-parallel"
        return f"batch-axis={demands.batch_axis}" if kind == "batch" else f"zero={demands.zero}"

    def _add(self, node: int, by: str, text: str) -> None:
        reason = Reason(by, text)
        if reason not in self._of[node]:
            self._of[node].append(reason)


def _dims(sharding: Sharding) -> str:
    dims = f"[{', '.join(map(str, sharding.dims))}]"
    whole = ", ".join(map(str, sharding.replicated))
    return f"{dims}, not over {whole}" if whole else dims
