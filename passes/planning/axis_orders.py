"""In which order the axes of a grid split one dimension together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xdsl.dialects.func import FuncOp

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.sharding import Sharding
from autopar.passes.partition.specs import AxisTable
from autopar.passes.sharding.propagation.manual import border_sharding
from autopar.passes.walk import inner_ops

from .places import Order, searched_axes
from .stated import Stated


def axis_orders(func: FuncOp, table: AxisTable, stated: Stated) -> list[Order]:
    """The grid's order, and those in which the program names several axes of one dimension: what
    lies so would be permuted wherever it meets what lies in the grid's order. Axes that are
    searched as one keep the grid's."""
    orders = [tuple(range(len(table.sizes)))]
    if all(len(group) == 1 for group in searched_axes(table)):
        for sharding in _stated(func, stated):
            for axes in table.spec(sharding).dims:
                orders.append(_with(orders[0], axes))
    return [*dict.fromkeys(orders)]


def _stated(func: FuncOp, stated: Stated) -> Iterator[Sharding]:
    yield from (said.sharding for said in stated.of_argument if said is not None)
    yield from (sharding for sharding in stated.results if sharding is not None)
    yield from stated.of_values.values()
    for op in inner_ops(func):
        if op.name == MANUAL:
            for is_entry, values in ((True, operands_of(op)), (False, op.results)):
                yield from (border_sharding(op, i, is_entry) for i in range(len(values)))


def _with(order: Order, axes: Sequence[int]) -> Order:
    """An order in which some axes change places among themselves."""
    left = iter(axes)
    return tuple(next(left) if axis in axes else axis for axis in order)
