"""What ops cost that need the data of other devices where a dimension is split: slices, pads,
concatenations, windows.

A device that makes elements [o, p) of a result reads an interval of each operand. What of it does
not lie in its own block is fetched by permutes, or by a gather where that is less: the same that
partitioning makes (`passes/partition/windows.py`), here for the devices that share a dimension.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from xdsl.ir import Operation

from autopar.dialects.rules.access import attribute, integer, ints, operands_of
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.sharding import Grid
from autopar.dialects.stablehlo.attributes import ConvDimensionNumbers
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.cost.op_kinds import reads_from_memory
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.exchange import Held, Sent
from autopar.passes.partition.localize.shape import Taken, join_permutes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.partition.strategy import Strategy
from autopar.passes.partition.windows import window_permutes

from .joins import Cut

_Interval = Callable[[int, int], tuple[int, int]]
"""From [start, stop) of a factor to [start, stop) of a dimension, beyond its ends too."""


class _Reads(NamedTuple):
    """Which elements of a dimension of an operand an op reads for elements of a factor."""

    operand: int
    dim: int
    of: _Interval


def may_exchange(op: Operation, rule: ShardingRule) -> bool:
    """Whether an op fetches anything under some strategy."""
    return op.name in _READERS or op.name == "stablehlo.concatenate" or _chooses(op, rule)


def _chooses(op: Operation, rule: ShardingRule) -> bool:
    return op.name == "stablehlo.reduce" and FactorKind.PERMUTATION in rule.kinds


class Fetch(NamedTuple):
    """What one op fetches of an operand, in one dimension."""

    operand: int
    key: tuple[object, ...]
    """Equal ones of one value, that lies alike, are made once."""
    seconds: float


def fetches(
    op: Operation,
    rule: ShardingRule,
    strategy: Strategy,
    table: AxisTable,
    prices: CostModel,
    cuts: Sequence[Cut] = (),
) -> Iterator[Fetch]:
    """What is fetched in one run of an op that `may_exchange` under a strategy; `cuts`: what a
    concatenation takes of values that it joins slices of."""
    if _chooses(op, rule):
        seconds = _choice_seconds(op, rule, strategy, table, prices)
        yield Fetch(0, (op,), seconds)
        return
    windows: dict[int, list[tuple[_Window, tuple[int, ...]]]] = defaultdict(list)
    """Of each operand those that several devices' parts are put together for, and the axes."""
    for factor, axes in enumerate(strategy.factors):
        if axes and rule.kinds[factor] is not FactorKind.PASS_THROUGH:
            sizes = tuple(table.sizes[axis] for axis in axes)
            for window in _windows(op, rule, factor, sizes, cuts):
                if window.sent != ():
                    windows[window.operand].append((window, axes))
    is_kept = reads_from_memory(op)
    for operand, found in windows.items():
        value = cuts[operand].source if cuts else operands_of(op)[operand]
        held = num_bytes(value.type) / table.parts(strategy.operands[operand].dim_axes)
        found.sort(key=lambda item: item[0].dim)
        key: tuple[object, ...] = (op.name, strategy.operands[operand].dims)
        following = [window.is_joined for window, _ in found[1:]] + [True]
        for (window, axes), is_read_whole in zip(found, following, strict=True):
            key = (*key, window.dim, window.name)
            block = max(1.0, shape_of(value.type)[window.dim] / table.parts(axes))
            seconds = _sent_seconds(window.sent, held, held / block, table, axes, prices)
            held *= window.width / block
            if is_kept and ((window.is_filled and is_read_whole) or window is found[-1][0]):
                seconds += prices.memory_seconds(2 * held)
            yield Fetch(operand, key, seconds)


def _sent_seconds(
    sent: _Fetched,
    held: float,
    row_bytes: float,
    table: AxisTable,
    axes: Sequence[int],
    prices: CostModel,
) -> float:
    if sent is None:
        return prices.collective_seconds("all_gather", held, table.axes(axes))
    seconds = 0.0
    for permute in sent:
        along = table.axes(axes[place] for place in permute.along)
        size = permute.rows * row_bytes
        seconds += prices.collective_seconds("permute", size, along)
        seconds += prices.memory_seconds(2 * size)  # cut out of the block
    return seconds


class _Permute(NamedTuple):
    rows: int
    along: tuple[int, ...]
    """Which of the axes that split the dimension it moves anything along."""


_Fetched = tuple[_Permute, ...] | None
"""The permutes that bring devices what they read; None where all is gathered."""


class _Window(NamedTuple):
    """What devices read of a dimension of an operand."""

    operand: int
    dim: int
    sent: _Fetched
    name: tuple[object, ...]
    """Equal windows have equal ones."""
    width: int
    is_filled: bool
    """Whether some device's reaches beyond the dimension's ends, and is masked there: its code
    reads more than it gives, so that it is written before it is joined with others."""
    is_joined: bool = False
    """Whether it is put together of all of the block and what is fetched."""


def _windows(
    op: Operation, rule: ShardingRule, factor: int, sizes: tuple[int, ...], cuts: Sequence[Cut]
) -> Iterator[_Window]:
    """What an op reads where axes of these sizes split a factor."""
    made, total = _made(op, rule, factor)
    parts = prod(sizes)
    block = -(-total // parts)
    if op.name == "stablehlo.concatenate":
        if made is not None and made == integer(op, "dimension"):
            taken = cuts or [Cut(value, 0, shape_of(value.type)[made]) for value in operands_of(op)]
            sources = [cut.source for cut in taken]
            pieces = tuple(
                (sources.index(source), shape_of(source.type)[made], start, length)
                for source, start, length, _ in taken
                if length
            )
            for operand, sent in _joined(sizes, pieces, block):
                yield _Window(operand, made, sent, (sizes, *pieces), block, is_filled=False)
        return
    for reads in _READERS[op.name](op, rule, factor, made):
        size = shape_of(operands_of(op)[reads.operand].type)[reads.dim]
        spans = [reads.of(block * part, block * (part + 1)) for part in range(parts)]
        width = max(stop - start for start, stop in spans)
        starts = tuple(start for start, _ in spans)
        sent, is_joined = _window_fetched(sizes, size, starts, width)
        is_filled = min(starts) < 0 or max(starts) + width > size
        name = starts, width
        yield _Window(reads.operand, reads.dim, sent, name, width, is_filled, is_joined)


@lru_cache(1024)
def _parts(sizes: tuple[int, ...]) -> AxisTable:
    """The devices that share a dimension split over axes of these sizes: one for each part."""
    return AxisTable(Grid("parts", tuple((f"{i}", size) for i, size in enumerate(sizes))), ())


def _held(sizes: tuple[int, ...], size: int) -> Held:
    return Held(tuple(range(len(sizes))), size, -(-size // prod(sizes)))


@lru_cache(4096)
def _window_fetched(
    sizes: tuple[int, ...], size: int, starts: tuple[int, ...], width: int
) -> tuple[_Fetched, bool]:
    table = _parts(sizes)
    sent, is_joined = window_permutes(table, _held(sizes, size), starts, width)
    return _fetched(sent, table), is_joined


@lru_cache(4096)
def _joined(
    sizes: tuple[int, ...], pieces: tuple[tuple[int, int, int, int], ...], block: int
) -> list[tuple[int, _Fetched]]:
    """Of a concatenation of pieces (operand, its size, where it begins, how much it takes): what
    is fetched of each operand, or of all as if of the first."""
    table = _parts(sizes)
    takes: list[Taken] = []
    offset = 0
    numbers = {operand: index for index, operand in enumerate(dict.fromkeys(p[0] for p in pieces))}
    for operand, size, start, length in pieces:
        takes.append(Taken(numbers[operand], _held(sizes, size), start, length, offset))
        offset += length
    first = [part * block for part in range(prod(sizes))]
    operands = [*numbers]
    return [
        (operands[source], _fetched(sent, table))
        for source, sent in join_permutes(table, takes, block, first)
    ]


def _fetched(sent: Sequence[Sent] | None, table: AxisTable) -> _Fetched:
    if sent is None:
        return None
    return tuple(_Permute(rows, _moved_along(pairs, table.sizes)) for rows, pairs in sent)


def _moved_along(pairs: Sequence[tuple[int, int]], sizes: Sequence[int]) -> tuple[int, ...]:
    """The axes in which a source and its target differ."""
    found: list[int] = []
    stride = 1
    for axis in reversed(range(len(sizes))):
        if any(one // stride % sizes[axis] != two // stride % sizes[axis] for one, two in pairs):
            found.append(axis)
        stride *= sizes[axis]
    return tuple(found[::-1])


def _choice_seconds(
    op: Operation, rule: ShardingRule, strategy: Strategy, table: AxisTable, prices: CostModel
) -> float:
    """Each device chooses among its own elements; their choices are gathered, and chosen from once
    more (`partition/localize/choices.py`)."""
    seconds = 0.0
    for factor, axes in enumerate(strategy.factors):
        if axes and rule.kinds[factor] is FactorKind.PERMUTATION:
            for result, spec in zip(op.results, strategy.results, strict=True):
                chosen = num_bytes(result.type) / table.parts(spec.dim_axes)
                seconds += prices.collective_seconds("all_gather", chosen, table.axes(axes))
    return seconds


def _made(op: Operation, rule: ShardingRule, factor: int) -> tuple[int | None, int]:
    """The dimension of the result whose elements a factor counts, and how many they are; None and
    those of the kernel's where a convolution sums over the factor."""
    kernel = zip(operands_of(op)[1:], rule.operands[1:], strict=True)
    for value, mapping in ((op.results[0], rule.results[0]), *kernel):
        for dim, held in enumerate(mapping):
            if factor in held:
                return (dim if value is op.results[0] else None), shape_of(value.type)[dim]
    return None, rule.factor_sizes[factor]


# ---- What is read, op by op ----------------------------------------------------------------------


def _dims(rule: ShardingRule, operand: int, factor: int) -> list[int]:
    return [dim for dim, held in enumerate(rule.operands[operand]) if factor in held]


def _slice(op: Operation, rule: ShardingRule, factor: int, made: int | None) -> list[_Reads]:
    found: list[_Reads] = []
    for dim in _dims(rule, 0, factor):
        first, step = ints(op, "start_indices")[dim], ints(op, "strides")[dim]

        def read(start: int, stop: int, first: int = first, step: int = step) -> tuple[int, int]:
            return first + start * step, first + (stop - 1) * step + 1

        found.append(_Reads(0, dim, read))
    return found


def _pad(op: Operation, rule: ShardingRule, factor: int, made: int | None) -> list[_Reads]:
    found: list[_Reads] = []
    for dim in _dims(rule, 0, factor):
        low = ints(op, "edge_padding_low")[dim]
        step = ints(op, "interior_padding")[dim] + 1

        def read(start: int, stop: int, low: int = low, step: int = step) -> tuple[int, int]:
            return -(-(start - low) // step), (stop - 1 - low) // step + 1

        found.append(_Reads(0, dim, read))
    return found


def _reverse(op: Operation, rule: ShardingRule, factor: int, made: int | None) -> list[_Reads]:
    found: list[_Reads] = []
    for dim in set(_dims(rule, 0, factor)) & set(ints(op, "dimensions")):
        size = shape_of(op.operands[0].type)[dim]

        def read(start: int, stop: int, size: int = size) -> tuple[int, int]:
            return size - stop, size - start

        found.append(_Reads(0, dim, read))
    return found


def _window(stride: int, low: int, span: int, dilation: int) -> _Interval:
    """Windows `start` to `stop`: of `span` elements each, over a dimension with `low` before it
    and `dilation` - 1 elements between any two of its own."""

    def read(start: int, stop: int) -> tuple[int, int]:
        first, last = start * stride - low, (stop - 1) * stride - low + span
        return -(-first // dilation), -(-last // dilation)

    return read


def _reduce_window(
    op: Operation, rule: ShardingRule, factor: int, made: int | None
) -> list[_Reads]:
    ones = (1,) * len(rule.results[0])
    found: list[_Reads] = []
    for index in range(len(op.results)):
        for dim in _dims(rule, index, factor):
            taps = ints(op, "window_dimensions")[dim]
            span = (taps - 1) * ints(op, "window_dilations", ones)[dim] + 1
            low = ints(op, "padding", (0,) * 2 * len(ones))[2 * dim]
            stride = ints(op, "window_strides", ones)[dim]
            base = ints(op, "base_dilations", ones)[dim]
            found.append(_Reads(index, dim, _window(stride, low, span, base)))
    return found


def _select_and_scatter(
    op: Operation, rule: ShardingRule, factor: int, made: int | None
) -> list[_Reads]:
    """All windows that reach the block of a device: of the source, and what they hold."""
    ones = (1,) * len(rule.results[0])
    found: list[_Reads] = []
    for dim in _dims(rule, 0, factor):
        size, stride = (ints(op, f"window_{what}", ones)[dim] for what in ("dimensions", "strides"))
        low = ints(op, "padding", (0,) * 2 * len(ones))[2 * dim]
        held = _window(stride, low, size, 1)

        def windows(
            start: int, stop: int, size: int = size, stride: int = stride, low: int = low
        ) -> tuple[int, int]:
            return -((size - 1 - start - low) // stride), (stop - 1 + low) // stride + 1

        def elements(
            start: int, stop: int, windows: _Interval = windows, held: _Interval = held
        ) -> tuple[int, int]:
            return held(*windows(start, stop))

        found += [_Reads(0, dim, elements), _Reads(1, dim, windows)]
    return found


def _convolution(op: Operation, rule: ShardingRule, factor: int, made: int | None) -> list[_Reads]:
    numbers = attribute(op, "dimension_numbers")
    assert isinstance(numbers, ConvDimensionNumbers)
    inputs = list(numbers.input_spatial_dimensions)
    outputs = list(numbers.output_spatial_dimensions)
    kernels = list(numbers.kernel_spatial_dimensions)
    rank = len(inputs)
    found: list[_Reads] = []
    for dim in _dims(rule, 0, factor):
        if dim not in inputs:
            continue
        index = inputs.index(dim)
        stride = ints(op, "window_strides", (1,) * rank)[index]
        low = ints(op, "padding", (0,) * 2 * rank)[2 * index]
        base = ints(op, "lhs_dilation", (1,) * rank)[index]
        between = ints(op, "rhs_dilation", (1,) * rank)[index]
        taps = shape_of(op.operands[1].type)[kernels[index]]
        windows = shape_of(op.results[0].type)[outputs[index]]
        if made == outputs[index]:
            found.append(_Reads(0, dim, _window(stride, low, (taps - 1) * between + 1, base)))
        else:  # the taps are split: the gradient of a kernel
            span = (windows - 1) * stride + 1
            found.append(_Reads(0, dim, _window(between, low, span, base)))
    return found


_READERS: dict[str, Callable[[Operation, ShardingRule, int, int | None], Sequence[_Reads]]] = {
    "stablehlo.slice": _slice,
    "stablehlo.pad": _pad,
    "stablehlo.reverse": _reverse,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.select_and_scatter": _select_and_scatter,
    "stablehlo.convolution": _convolution,
}
