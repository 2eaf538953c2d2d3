"""What stays whole because no axis divides it: auto-shard splits dimensions evenly only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from xdsl.ir import BlockArgument

from autopar.dialects.tensors import is_splittable, num_bytes, shape_of
from autopar.passes.importing.arguments import argument_kinds, batch_dim
from autopar.passes.importing.methods import MethodOptions

from .naming import ValueNames
from .plan_graph import PlanGraph
from .words import listed, size_text

_WEIGHTY = 0.1
"""The share of the bytes of arguments that may lie anywhere from which on it is told."""
_NAMED = 3
"""Arguments that are named, the biggest first."""


def uneven_remarks(graph: PlanGraph) -> Iterator[str]:
    """A text for each size of axes that divides no dimension of arguments that weigh something,
    though they are long enough to be split."""
    names = ValueNames(graph.func, ()).arguments
    args = [arg for arg in graph.func.body.block.args if _is_free(graph, arg)]
    total = sum(map(_bytes, args))
    for size in sorted({size for size in graph.table.sizes if size > 1}):
        stuck = sorted((arg for arg in args if _is_stuck(arg, size)), key=_bytes)[::-1]
        held = sum(map(_bytes, stuck))
        if stuck and held >= _WEIGHTY * total:
            axes = [axis for axis, own in graph.table.grid.axes if own == size]
            said = [f"{names[arg.index]} : {arg.type}" for arg in stuck]
            yield (
                f"auto-shard: {listed(said, _NAMED)} ({size_text(held)} in all) "
                f"cannot be split over {' or '.join(axes)}: {size} divides none of "
                f"their dimensions, and only even parts are planned; {_advice(graph, stuck, size)}"
            )


def _is_free(graph: PlanGraph, arg: BlockArgument) -> bool:
    """Whether neither the program nor an option says where an argument lies."""
    return is_splittable(arg.type) and graph.stated.of_argument[arg.index] is None


def _bytes(arg: BlockArgument) -> int:
    return num_bytes(arg.type)


def _is_stuck(arg: BlockArgument, size: int) -> bool:
    """Whether nothing but the sizes of its dimensions keeps an argument whole."""
    shape = shape_of(arg.type)
    return (
        prod(shape) >= MethodOptions.small_tensor_elements
        and max(shape) >= size
        and all(extent % size for extent in shape)
    )


def _advice(graph: PlanGraph, stuck: Sequence[BlockArgument], size: int) -> str:
    """What to pad: the batch where it is among them, else the longest dimension of the biggest."""
    kinds = argument_kinds(graph.func)
    arg = next((arg for arg in stuck if kinds[arg.index] == "batch"), stuck[0])
    shape = shape_of(arg.type)
    is_batch = kinds[arg.index] == "batch"
    dim = batch_dim(graph.func, arg.index) if is_batch else shape.index(max(shape))
    name = ValueNames(graph.func, ()).arguments[arg.index]
    padded = -(-shape[dim] // size) * size
    what = "the batch, " if is_batch else ""
    return (
        f"pad {what}dimension {dim} of {name}, from {shape[dim]} to {padded}, or take another "
        "grid, or the method dp or zero3, which pad"
    )
