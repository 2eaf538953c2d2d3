"""Deciding ops that hold regions of the program: loops, branches, manual computations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from xdsl.ir import Block, Operation

from autopar.dialects.autopar import REDUCE_IN_LOOP
from autopar.dialects.sdy import ManualAxesAttr, ManualComputationOp
from autopar.dialects.sharding import AxisRef
from autopar.passes.sharding.propagation.manual import per_value

from .partials import Partials
from .resharder import Resharder
from .specs import AxisTable, Spec, without_axes
from .value_specs import ValueSpecs


class RegionDecider:
    """Fixes where values lie as they enter and leave regions; `walk` decides what is inside."""

    def __init__(
        self,
        specs: ValueSpecs,
        partials: Partials,
        reshards: Resharder,
        walk: Callable[[Block], None],
    ) -> None:
        self._specs = specs
        self._partials = partials
        self._reshards = reshards
        self._walk = walk

    def handlers(self) -> dict[str, Callable[[Any], None]]:
        """What decides each op that this class knows, by name."""
        return {
            "sdy.manual_computation": self._manual,
            "stablehlo.case": self._branches,
            "stablehlo.if": self._branches,
            "stablehlo.while": self._while,
        }

    def _branches(self, op: Operation) -> None:
        """The branches bring their results to where the op's are annotated to lie."""
        for index, value in enumerate(op.operands):
            self._reshards.bring(op, index, self._specs.replicated(value))
        specs = [self._specs.annotated(r) for r in op.results]
        for region in op.regions:
            self._walk(region.block)
            terminator = region.block.last_op
            assert terminator is not None
            for index, spec in enumerate(specs):
                self._reshards.bring(terminator, index, spec)
        self._specs.record(op, specs)

    def _while(self, op: Operation) -> None:
        """Carries lie as the results are annotated to, accumulators as what is added to them."""
        condition, body = op.regions
        specs = [self._specs.annotated(r) for r in op.results]
        for block in (condition.block, body.block):
            for arg, spec in zip(block.args, specs, strict=True):
                self._specs.of[arg] = spec
        self._partials.find_accumulators(op, only_whole=REDUCE_IN_LOOP in op.attributes)
        self._walk(condition.block)
        predicate = condition.block.last_op
        assert predicate is not None
        for index in range(len(predicate.operands)):
            self._reshards.bring(predicate, index, self._specs.table.replicated(0))
        self._walk(body.block)
        terminator = body.block.last_op
        assert terminator is not None
        for index, arg in enumerate(body.block.args):
            specs[index] = self._specs.of[arg]
            self._specs.of[condition.block.args[index]] = specs[index]
            self._reshards.bring(terminator, index, specs[index])
        for index, spec in enumerate(specs):
            self._reshards.bring(op, index, spec)
        wanted = [self._specs.annotated(r) for r in op.results]
        self._specs.record(op, specs)
        self._reshards.bring_results(op, specs, wanted)

    def _manual(self, op: ManualComputationOp) -> None:
        """A body on shapes local to its manual axes: the other axes are decided inside."""
        ins, outs = manual_specs(op, self._specs.table)
        manual = manual_axes(op, self._specs.table)
        for index, spec in enumerate(ins):
            self._reshards.bring(op, index, spec)
        block = op.body.block
        for arg, spec in zip(block.args, ins, strict=True):
            self._specs.of[arg] = without_axes(spec, manual)
        self._walk(block)
        terminator = block.last_op
        assert terminator is not None
        for index, spec in enumerate(outs):
            self._reshards.bring(terminator, index, without_axes(spec, manual))
        wanted = [self._specs.annotated(r) for r in op.results]
        self._specs.record(op, outs)
        self._reshards.bring_results(op, outs, wanted)
        _respell(op, ins, outs, sorted(manual), self._specs.table)


def _respell(
    op: ManualComputationOp,
    ins: Sequence[Spec],
    outs: Sequence[Spec],
    manual: Iterable[int],
    table: AxisTable,
) -> None:
    """Writes what the op says of axes on the refined grid."""
    for key, specs in (("in_shardings", ins), ("out_shardings", outs)):
        op.properties[key] = per_value([table.sharding(s) for s in specs], op.properties[key])
    names = tuple(axis.name for axis in table.axes(manual))
    op.properties["manual_axes"] = ManualAxesAttr(names)


def manual_specs(op: ManualComputationOp, table: AxisTable) -> tuple[list[Spec], list[Spec]]:
    """How operands and results of a manual computation lie outside it."""
    return (
        [table.spec(s.sharding) for s in op.in_shardings.data],
        [table.spec(s.sharding) for s in op.out_shardings.data],
    )


def manual_axes(op: ManualComputationOp, table: AxisTable) -> frozenset[int]:
    """The axes that are manual in the body."""
    return frozenset(table.indices(AxisRef(name) for name in op.manual_axes.data))
