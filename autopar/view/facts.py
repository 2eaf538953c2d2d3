"""What a partitioned program does, for the page: collectives and memory over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from autopar.dialects.shard import grid_of
from autopar.dialects.tensors import num_bytes
from autopar.passes.cost.liveness import beside_arguments, memory_of, timeline_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import op_seconds, price_of
from autopar.passes.cost.report import collective_use
from autopar.passes.cost.schedule import Buffer
from autopar.passes.entry import main_function
from autopar.passes.planning.modelled import StepSeconds
from autopar.passes.planning.naming import grouped, op_label, pattern
from autopar.passes.walk import inner_ops

from .tree import ProgramTree, Table

_POINTS = 1200
"""Of the chart of memory."""
_LARGEST = 14
"""Buffers that are named at the peak."""
_PLACES = 60
"""Places that are told of one kind of collective."""


@dataclass
class _Moved:
    """The collectives of one kind over the same axes."""

    count: int = 0
    num_bytes: float = 0.0
    seconds: float = 0.0
    places: dict[str, list[float]] = field(default_factory=lambda: defaultdict[str, list[float]](
        lambda: [0, 0.0]
    ))  # fmt: skip


def collectives_data(module: ModuleOp, prices: CostModel, tree: ProgramTree) -> list[Any]:
    """The collectives by kind and axes with where they stand; what each op costs goes to the tree,
    collectives last, since they belong to the dearest op of their place."""
    grid, loops = grid_of(module), dict[Operation, int]()
    seconds = op_seconds(module, prices)
    table = Table()
    moved: dict[tuple[str, str], _Moved] = defaultdict(_Moved)
    uses = [(op, collective_use(op, grid, loops)) for op in inner_ops(module)]
    for op, use in uses:
        if use is None and op in seconds:
            tree.charge(op, seconds[op])
    for op, use in uses:
        if use is None:
            continue
        key = use.kind, use.where
        own, spent = moved[key], seconds.get(op, 0.0)
        own.count += use.times
        own.num_bytes += use.times * use.num_bytes
        own.seconds += spent
        place = own.places[pattern(op_label(op).partition(" ")[2].strip("()") or "main")]
        place[0] += use.times
        place[1] += use.times * use.num_bytes
        tree.charge(op, spent, (table.number(key), use.times * use.num_bytes))
    return [_moved_json(kind, axes, moved[kind, axes]) for kind, axes in table.values]


def _moved_json(kind: str, axes: str, moved: _Moved) -> dict[str, Any]:
    places = sorted(moved.places.items(), key=lambda item: -item[1][1])
    return {
        "kind": kind,
        "axes": axes,
        "count": moved.count,
        "bytes": round(moved.num_bytes),
        "seconds": moved.seconds,
        "places": [[name, count, round(size)] for name, (count, size) in places[:_PLACES]],
        "more": max(0, len(places) - _PLACES),
    }


def objective_data(module: ModuleOp, prices: CostModel) -> dict[str, float | None]:
    """Seconds of a step and their parts."""
    seconds = StepSeconds.of(price_of(module, prices), prices).as_json()
    return {name.removesuffix("_s"): value for name, value in seconds.items()}


def memory_data(module: ModuleOp, limit: int | None) -> dict[str, Any]:
    """What is in memory of a device over a step, and what is largest when most is."""
    block = main_function(module).body.block
    timeline, memory = timeline_of(block), memory_of(module)
    buffers = list(beside_arguments(timeline))
    used = _over_time(buffers, timeline.end)
    peak = max(range(len(used)), key=used.__getitem__, default=0)
    op_at = {time: op for op, time in timeline.times.items()}
    labels = Table()
    points = [
        [time, used[time], labels.number(pattern(op_label(op_at[time])) if time in op_at else "")]
        for time in _sampled(used)
    ]
    return {
        "arguments": memory.arguments,
        "results": memory.results,
        "temporaries": memory.temporaries,
        "peak": memory.peak,
        "limit": limit,
        "end": len(used),
        "peak_at": peak,
        "points": points,
        "labels": labels.values,
        "largest": _largest(buffers, peak),
    }


def _over_time(buffers: Sequence[Buffer], end: int) -> list[int]:
    change = [0] * (end + 1)
    for buffer in buffers:
        change[buffer.first] += buffer.size
        change[buffer.last + 1] -= buffer.size
    used: list[int] = []
    total = 0
    for step in change[:-1]:
        total += step
        used.append(total)
    return used or [0]


def _sampled(used: Sequence[int]) -> Iterator[int]:
    """Times that show the course: of each of many equal stretches where most is in use."""
    width = max(1, -(-len(used) // _POINTS))
    for start in range(0, len(used), width):
        stretch = range(start, min(start + width, len(used)))
        yield max(stretch, key=used.__getitem__)


def _largest(buffers: Sequence[Buffer], time: int) -> list[list[Any]]:
    """[what, how many, bytes]: the buffers in use at a time, layers that are alike together."""
    alive = [buffer for buffer in buffers if buffer.first <= time <= buffer.last]
    names = [_buffer_label(buffer) for buffer in alive]
    rows = [
        (label, len(members), sum(alive[i].size for i in members))
        for label, members in grouped(names).items()
    ]
    return [list(row) for row in sorted(rows, key=lambda row: -row[2])[:_LARGEST]]


def _buffer_label(buffer: Buffer) -> str:
    value = next((v for v in buffer.values if num_bytes(v.type) == buffer.size), None)
    owner = None if value is None else value.owner
    if value is None or not isinstance(owner, Operation):
        return "copies for joined collectives" if value is None else "carried by a loop"
    return f"{op_label(owner)} : {value.type}"
