"""Which values lie alike, and where they may lie.

Values that an elementwise op joins, or that are one value by data flow (loop carries), are a place:
they have one sharding. An argument of the function is a place of its own, since how a parameter is
kept and how it is computed with are two questions (ZeRO's). So are values of which the program
states different shardings. Constants, what is broadcast from a
scalar, and scalars cost nothing wherever they lie: they are nobody's choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER, MANUAL, data_flow_edges
from autopar.dialects.rules.registry import op_classes
from autopar.dialects.sharding import Sharding
from autopar.dialects.tensors import is_splittable, shape_of
from autopar.passes.cost.flops import op_flops
from autopar.passes.partition.specs import AxisTable, Spec
from autopar.passes.walk import SHARDED_BODIES, ops_in

from .joins import joined_slices

_CONSTANTS = frozenset(
    {"stablehlo.constant", "stablehlo.iota", "arith.constant", "chlo.constant", "tensor.empty"}
)
MOVES = frozenset({"autopar.constraint", "autopar.reshard"})
"""Ops whose results lie where the program says, not where their operands do."""
_CHANGES_LENGTH = frozenset(
    f"stablehlo.{name}" for name in ("concatenate", "pad", "reduce_window", "slice")
)
"""Ops that leave a few elements of a dimension out, or add some."""
_UNEVEN = _CHANGES_LENGTH | {
    f"stablehlo.{name}" for name in ("broadcast_in_dim", "reverse", "transpose")
}
"""Ops around a place that may be split unevenly."""
_PADDING = 1 / 16
"""The most of a dimension that may be padding then."""
Order = tuple[int, ...]
"""All axes of a grid, that which is major in a dimension first."""
_MOST_AXES = 3
"""That are searched apart: with each more there are several times as many choices."""


def planned_ops(func: FuncOp) -> Iterator[Operation]:
    """The ops whose values are to be placed, in program order; not those inside manual
    computations, where the program itself says what each device does."""
    yield from _in_block(func.body.block)


def _in_block(block: Block) -> Iterator[Operation]:
    for op in ops_in(block):
        yield op
        if op.regions and op.name in SHARDED_BODIES and op.name != MANUAL:
            for region in op.regions:
                for inner in region.blocks:
                    yield from _in_block(inner)


class Places:
    """The places of a function's values."""

    def __init__(self, func: FuncOp, stated: Mapping[SSAValue, Sharding] | None = None) -> None:
        """`stated`: what the program says of the results of ops."""
        self._func = func
        self._says = dict(stated or {})
        """What is said of a place, by the value that stands for it."""
        self._parent: dict[SSAValue, SSAValue] = {}
        self._free: set[SSAValue] = set()
        self.reads: list[tuple[SSAValue, SSAValue, Operation]] = []
        """(argument, value, op): an argument that the op joins with the value."""
        self.parted: list[tuple[SSAValue, SSAValue, Operation]] = []
        """(value, other, op): values that the op joins, of which the program says that they lie
        differently; the first goes where the other lies."""
        self.joining: list[Operation] = []
        """Ops that do nothing but join values."""
        self.others: list[Operation] = []
        """Ops whose operands and results may lie differently."""
        self._classes = op_classes()
        self.ops = list(planned_ops(func))
        """Propagation may add copies of constants later, which are not planned."""
        self.joined = dict(joined_slices(self.ops, self._says))
        """The concatenations whose slices are no choice of their own."""
        self._views = {view for cuts in self.joined.values() for cut in cuts for view in cut.views}
        self._even: list[SSAValue] = []
        """Values whose places are split evenly only."""
        for op in self.ops:
            self._visit(op)
        self._uneven = self._find_uneven()

    def of(self, value: SSAValue) -> SSAValue | None:
        """The value that stands for the place; None where the value is free."""
        if value in self._free or not shape_of(value.type) or not is_splittable(value.type):
            return None
        root = value
        while (up := self._parent.get(root)) is not None:
            root = up
        while value is not root:
            value, self._parent[value] = self._parent.get(value, root), root
        self._parent.pop(root, None)
        return root

    def inputs(self, op: Operation) -> Sequence[SSAValue]:
        """What an op reads: what it joins slices of itself, in place of these."""
        cuts = self.joined.get(op)
        return operands_of(op) if cuts is None else [cut.source for cut in cuts]

    def may_be_uneven(self, value: SSAValue) -> bool:
        """Whether a place may be split where the axes do not divide: windows of a value that are
        only slices, pads and elementwise ops of it."""
        return bool(self._uneven) and self.of(value) in self._uneven

    def _find_uneven(self) -> set[SSAValue]:
        windowed: set[SSAValue | None] = set()
        for op in self.others:
            if op.name in _CHANGES_LENGTH:
                windowed.update(map(self.of, (*self.inputs(op), *op.results)))
        if not windowed:
            return set()
        last = self._func.body.block.last_op
        assert last is not None
        even: set[SSAValue | None] = {*map(self.of, (*self._even, *last.operands))}
        even.update(map(self.of, self._func.body.block.args))
        for op in self.others:
            if op.name not in _UNEVEN:
                even.update(map(self.of, (*self.inputs(op), *op.results)))
        return {value for value in windowed - even if value is not None}

    def _visit(self, op: Operation) -> None:
        operands = operands_of(op)
        if op in self._views:
            self._free.update(op.results)
        elif op.name in _CONSTANTS or self._is_made_of_scalars(op):
            self._free.update(op.results)
        elif edges := data_flow_edges(op) if op.name != MANUAL else []:
            for edge in edges:
                first, *rest = edge.targets
                self._even.append(first)
                for value in (*rest, *edge.source_values):
                    self._join(first, value, op)
        elif op.name == BARRIER:
            for result, value in zip(op.results, operands, strict=True):
                self._join(result, value, op)
        elif self._is_elementwise(op):
            self.joining.append(op)
            (result,) = op.results
            for value in operands:
                self._join(result, value, op)
        elif op.results and op.next_op is not None:
            self.others.append(op)

    def _is_made_of_scalars(self, op: Operation) -> bool:
        if op.regions or not op.results or not op.operands:
            return False
        if op.name != "stablehlo.broadcast_in_dim" and self._classes.get(op.name) != "elementwise":
            return False
        return all(v in self._free or not shape_of(v.type) for v in operands_of(op))

    def _is_elementwise(self, op: Operation) -> bool:
        if op.name in MOVES or self._classes.get(op.name) != "elementwise" or len(op.results) != 1:
            return False
        if op_flops(op):  # a choice of its own, as of a dot
            return False
        shape = shape_of(op.results[0].type)
        return all(shape_of(v.type) in ((), shape) for v in operands_of(op))

    def _join(self, value: SSAValue, other: SSAValue, op: Operation) -> None:
        if self.is_argument(other):
            self.reads.append((other, value, op))
            return
        one, two = self.of(value), self.of(other)
        if one is None or two is None or one is two:
            return
        own, said = self._says.get(one), self._says.get(two)
        if own is not None and said is not None and own != said:
            self.parted.append((other, value, op))
            return
        self._parent[two] = one
        if said is not None:
            self._says[one] = said

    def is_argument(self, value: SSAValue) -> bool:
        """Whether a value is an argument of the function."""
        return isinstance(value, BlockArgument) and value.block is self._func.body.block


def searched_axes(table: AxisTable) -> list[tuple[int, ...]]:
    """The axes of a grid that split dimensions together in plans: each for itself. Of more than
    three those next to each other that have the fewest devices are one, until three are left."""
    groups: list[tuple[int, ...]] = [(axis,) for axis, size in enumerate(table.sizes) if size > 1]
    while len(groups) > _MOST_AXES:
        parts = [table.parts(one + two) for one, two in pairwise(groups)]
        at = len(parts) - 1 - parts[::-1].index(min(parts))  # the innermost: the fastest links
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    return groups


def every_spec(
    shape: Sequence[int],
    table: AxisTable,
    orders: Sequence[Order],
    *,
    flatten: bool = True,
    uneven: bool = False,
) -> list[Spec]:
    """All ways to split a tensor along dimensions that the axes divide, whole first; `uneven`: and
    along those that they leave little of."""
    splits = even_splits(shape, range(len(shape)), table, orders, flatten=flatten, uneven=uneven)
    return [Spec(dims) for dims in splits]


def even_splits(
    sizes: Sequence[int],
    may: Iterable[int],
    table: AxisTable,
    orders: Sequence[Order],
    *,
    flatten: bool,
    uneven: bool = False,
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """For each way to split dimensions (or factors) of these sizes evenly the axes of each, in each
    of the orders; only those that `may` be split are. Without `flatten` none is by several axes,
    but for those that are searched as one. `uneven`: with a little padding, too."""
    groups = searched_axes(table)
    for choice in product((-1, *may), repeat=len(groups)):
        split = [index for index in choice if index >= 0]
        if not flatten and len(set(split)) < len(split):
            continue
        chosen = tuple(
            tuple(
                axis
                for group, of in zip(groups, choice, strict=True)
                if of == index
                for axis in group
            )
            for index in range(len(sizes))
        )
        padding = (
            (-size % table.parts(own), size) for size, own in zip(sizes, chosen, strict=True)
        )
        if all(more == 0 or (uneven and more <= _PADDING * size) for more, size in padding):
            yield from _in_orders(chosen, orders)


def _in_orders(
    chosen: tuple[tuple[int, ...], ...], orders: Sequence[Order]
) -> Iterable[tuple[tuple[int, ...], ...]]:
    """Axes of several dimensions, given in the first order, in each of the orders."""
    if len(orders) == 1:
        return (chosen,)
    return dict.fromkeys(
        tuple(tuple(sorted(axes, key=order.index)) for axes in chosen) for order in orders
    )


def only_slices(source: Spec, target: Spec) -> bool:
    """Whether what lies as a source only has to be sliced to be a target."""
    dims = zip(source.dims, target.dims, strict=True)
    return not source.partial and all(two[: len(one)] == one for one, two in dims)


def slicing(sources: Sequence[Spec], targets: Sequence[Spec]) -> NDArray[np.bool_]:
    """(sources, targets): the same of several."""
    found = np.array([[not source.partial] * len(targets) for source in sources], np.bool_)
    for one, two in zip(_by_dim(sources), _by_dim(targets), strict=True):
        # few splits of a dimension are different
        ours, theirs = list(dict.fromkeys(one)), list(dict.fromkeys(two))
        begins = np.array([[b[: len(a)] == a for b in theirs] for a in ours])
        rows, columns = [ours.index(axes) for axes in one], [theirs.index(axes) for axes in two]
        found &= begins[np.ix_(rows, columns)]
    return found


def _by_dim(specs: Sequence[Spec]) -> Iterator[tuple[tuple[int, ...], ...]]:
    return zip(*(spec.dims for spec in specs), strict=True)


def specs_that_keep(specs: Iterable[Spec], sharding: Sharding, table: AxisTable) -> list[Spec]:
    """Those of the specs that a sharding of the user's allows, or just its own where none is.

    An open dimension may be split further, a closed one not; axes that it says are replicated
    split nothing.
    """
    own = table.spec(sharding).with_partial(())
    whole = set(table.indices(sharding.replicated))

    def keeps(spec: Spec) -> bool:
        return not whole & spec.dim_axes and all(
            have[: len(want)] == want and (dim.is_open or have == want)
            for have, want, dim in zip(spec.dims, own.dims, sharding.dims, strict=True)
        )

    return [spec for spec in specs if keeps(spec)] or [own]
