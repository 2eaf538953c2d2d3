"""Which collectives wait for others of their kind: small ones then run as one, and all_reduces."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds

from .loop_sums import LoopSums, may_sum
from .places import Places
from .reshard_prices import ReshardPrices

_RESHAPES = frozenset(
    f"stablehlo.{name}" for name in ("broadcast_in_dim", "reduce", "reshape", "transpose")
)
"""Ops that may give what they read in another shape, and nothing else."""


class WaitingSum(NamedTuple):
    """A sum that waits to be reduced."""

    maker: Operation
    """What gives partial sums, perhaps in loops that add them up."""
    result: int
    """Which of its results."""
    total: SSAValue
    """What is reduced."""
    node: int
    """Of the place where that lies."""


class Waiting:
    """Those of arguments, of what elementwise ops join with them (gradients), and of both in other
    shapes; sums that become one of these and nothing else; scalars that are summed of these, as
    norms are, or that only returned scalars are made of, as losses. What the batch is joined with
    is on the way of the step, and waits for nothing."""

    def __init__(
        self,
        places: Places,
        node_of: Callable[[SSAValue], int | None],
        prices: ReshardPrices,
        sums: LoopSums,
    ) -> None:
        self._places, self._node_of, self._prices = places, node_of, prices
        self._sums = sums
        self._nodes: set[int] = set()
        self.sums: list[WaitingSum] = []
        self._returned: set[Operation] = set()
        self._passed: set[Operation] = set()
        """Ops that a sum in front of them waits for."""
        self._num_norms = 0

    def find(self, func: FuncOp) -> None:
        """Finds them, and tells the prices how much waits."""
        places, node_of, prices = self._places, self._node_of, self._prices
        kinds = argument_kinds(func)
        of_state = [kind in STATE_KINDS for kind in kinds]
        joined: dict[int, int] = {}
        for arg, value, _ in places.reads:
            assert isinstance(arg, BlockArgument)
            if any(of_state) and kinds[arg.index] == "batch":
                continue
            ends = node_of(arg), node_of(value)
            self._nodes.update(node for node in ends if node is not None)
            if ends[1] is not None:
                joined[ends[1]] = num_bytes(value.type)
        reshapes = [op for op in places.others if _reshapes(op)]
        for op in (*reshapes, *reversed(reshapes)):
            ends = {node_of(op.operands[0]), node_of(op.results[0])}
            if not self._nodes.isdisjoint(ends):
                self._nodes.update(node for node in ends if node is not None)
        for size in joined.values():
            prices.wait(size)
        for op in places.others:
            if not self._nodes.isdisjoint(map(node_of, op.results)):
                self._wait_before(op)
        returned = _only_returned(func.body.block)
        for op in places.others:
            if not returned.isdisjoint(op.results):
                self._returned.add(op)
                prices.wait(num_bytes(op.results[0].type))
            self._num_norms += self._is_norm(op)
        self._find_sums()

    def _wait_before(self, op: Operation) -> None:
        """Lets a sum wait that an op which waits is linear in, where nothing but ops that are, up
        to this one, read it (the slice of a table, of which the sum is the gradient)."""
        nodes: set[int] = set()
        passed: set[Operation] = set()
        while (source := _linear_source(op)) is not None:
            node, maker = self._node_of(source), source.owner
            if not isinstance(maker, Operation):
                return
            passed.add(op)
            if node is not None:
                nodes.add(node)
            if may_sum(maker):
                self._nodes |= nodes
                self._passed |= passed
                return
            op = maker

    def _find_sums(self) -> None:
        """Finds the sums that wait, which devices may have parts of."""
        sizes: dict[int, int] = {}
        for op in filter(may_sum, self._places.others):
            for index, result in enumerate(op.results):
                for total in self._sums.totals(op, result):
                    node = self._node_of(total)
                    if node is not None and node in self._nodes:
                        self.sums.append(WaitingSum(op, index, total, node))
                        if op not in self._passed:
                            sizes[node] = max(sizes.get(node, 0), num_bytes(total.type))
        for size in sizes.values():
            self._prices.reduce(size)

    def shares(self, trips: int, *nodes: int) -> bool:
        """Whether collectives between these nodes wait for others. In a loop there are none to
        wait for."""
        return trips == 1 and not self._nodes.isdisjoint(nodes)

    def share(self, op: Operation, result: SSAValue) -> float:
        """Of a message, for a scalar that an op gives as a partial sum."""
        if op in self._returned:
            return self._prices.share(num_bytes(result.type))
        return 1 / self._num_norms if self._is_norm(op) else 1.0

    def _is_norm(self, op: Operation) -> bool:
        of_waiting = not self._nodes.isdisjoint(map(self._node_of, operands_of(op)))
        return of_waiting and any(not shape_of(result.type) for result in op.results)


def _reshapes(op: Operation) -> bool:
    if op.name not in _RESHAPES or len(op.results) != 1:
        return False
    return prod(shape_of(op.operands[0].type)) == prod(shape_of(op.results[0].type))


def _linear_source(op: Operation) -> SSAValue | None:
    """The operand through which sums pass to an op's result, if there is one and nothing else reads
    it; others may be neutral."""
    rule = get_rule(op) if len(op.results) == 1 else None
    if rule is None:
        return None
    operands = operands_of(op)
    groups = [set(group).difference(rule.accumulated) for group in rule.linear]
    single = {index for group in groups if len(group) == 1 for index in group}
    sources = [operands[index] for index in single if shape_of(operands[index].type)]
    return sources[0] if len(sources) == 1 and sources[0].has_one_use() else None


def _only_returned(block: Block) -> set[SSAValue]:
    """The scalars of a function that nothing but results is made of, by way of scalars."""
    found: set[SSAValue] = set()
    for op in reversed(list(block.ops)):
        for value in op.results:
            users = [use.operation for use in value.uses]
            if users and not shape_of(value.type):
                if all(isinstance(user, ReturnOp) or _gives(user, found) for user in users):
                    found.add(value)
    return found


def _gives(op: Operation, values: set[SSAValue]) -> bool:
    """Whether all that an op gives is among some values."""
    return bool(op.results) and not op.regions and values.issuperset(op.results)
