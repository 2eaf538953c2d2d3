"""Ring bytes of the collectives in compiled HLO, counted the same way for any program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from math import prod
from typing import Any, NamedTuple

import numpy as np

from autopar.dialects.sharding import AxisRef, Grid
from autopar.passes.cost.collectives import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    permute_bytes,
    reduce_scatter_bytes,
)

_WIDTHS = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_OP = re.compile(
    r"= (?P<type>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")


class HloUse(NamedTuple):
    """A collective of an HLO module."""

    kind: str
    axes: tuple[str, ...]
    """The grid axes that it runs over; all of them where its groups are those of no axes."""
    num_bytes: float
    """Ring bytes that a device sends."""
    local_bytes: float
    """What each device puts in."""


def uses(hlo: str, grid: Grid) -> Iterator[HloUse]:
    """The collectives of an HLO module whose devices are numbered as a grid's, loop bodies once."""
    for line, (kind, num_bytes, local_bytes) in _found(hlo, grid.num_devices):
        yield HloUse(kind, _axes(line, kind, grid), num_bytes, local_bytes)


def collectives(hlo: str, num_devices: int) -> Iterator[tuple[str, float]]:
    """(kind, ring bytes a device) of every collective of an HLO module, loop bodies once."""
    for _, (kind, num_bytes, _) in _found(hlo, num_devices):
        yield kind, num_bytes


def _found(hlo: str, num_devices: int) -> Iterator[tuple[str, tuple[str, float, float]]]:
    """The line, and (kind, ring bytes, local bytes), of every collective."""
    for line in hlo.splitlines():
        match = _OP.search(line)
        if match is None:
            continue
        kind = match["kind"]
        sizes = [
            _WIDTHS.get(dtype, 4) * prod(int(n) for n in dims.split(",") if n)
            for dtype, dims in _SHAPE.findall(match["type"])
        ]
        group = _group_size(line, num_devices)
        total = float(sum(sizes))
        if kind == "all-reduce":
            yield line, (kind, all_reduce_bytes(total, group), total)
        elif kind == "all-gather":
            yield line, (kind, all_gather_bytes(total / group, group), total / group)
        elif kind == "reduce-scatter":
            yield line, (kind, reduce_scatter_bytes(total * group, group), total * group)
        elif kind == "all-to-all":
            yield line, (kind, all_to_all_bytes(total, group), total)
        else:
            yield line, ("permute", permute_bytes(total), total)


def _axes(line: str, kind: str, grid: Grid) -> tuple[str, ...]:
    """The grid axes of a collective."""
    names = tuple(name for name, size in grid.axes if size > 1)
    if kind == "permute":
        pairs = re.search(r"source_target_pairs=\{.*?\}\}", line)
        ends = (
            [tuple(map(int, p.split(","))) for p in re.findall(r"\{(\d+,\d+)", pairs[0])]
            if pairs
            else []
        )
        return tuple(
            name
            for name in names
            if any(
                grid.coordinate(a, AxisRef(name)) != grid.coordinate(b, AxisRef(name))
                for a, b in ends
            )
        )
    groups = _groups(line)
    for count in range(1, len(names) + 1):
        for chosen in combinations(names, count):
            if groups == {frozenset(g) for g in grid.groups([AxisRef(name) for name in chosen])}:
                return chosen
    return names


def _groups(line: str) -> set[frozenset[int]]:
    """The replica groups of a collective; none: all devices."""
    mesh = re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", line)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", line)
    if iota:
        return {frozenset(g) for g in _devices(iota[3]).reshape(-1, int(iota[2])).tolist()}
    listed = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
    found = re.findall(r"\{([\d,]+)\}", listed[1]) if listed else []
    return {frozenset(map(int, group.split(","))) for group in found}


def _devices(text: str) -> np.ndarray[Any, Any]:
    """The devices of `[2,4]T(1,0)`, which numbers them row-major and transposes."""
    shape, _, order = text.partition("T")
    sizes = [int(n) for n in re.findall(r"\d+", shape)]
    devices = np.arange(prod(sizes)).reshape(sizes)
    return devices.transpose([int(n) for n in re.findall(r"\d+", order)]) if order else devices


def _mesh_groups(axes: str, devices: str | None, along: str) -> set[frozenset[int]]:
    """Groups along axes, or sub-axes `'a':(pre)size`, of a mesh `'a'=2,'b'=4`."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    parts = {
        name: (int(pre or 1), int(size or sizes[name]))
        for name, pre, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    }
    shape: list[int] = []
    last: list[int] = []
    for name, size in sizes.items():
        pre, own = parts.get(name, (size, 1))
        shape += [pre, own, size // pre // own]
        if name in parts:
            last.append(len(shape) - 2)
    found = _devices(devices) if devices else np.arange(prod(sizes.values()))
    moved = np.moveaxis(found.reshape(shape), last, range(-len(last), 0))
    group = prod(shape[axis] for axis in last)
    return {frozenset(g) for g in moved.reshape(-1, group).tolist()}


def _group_size(line: str, num_devices: int) -> int:
    groups = _groups(line)
    return len(next(iter(groups))) if groups else num_devices


def total_bytes(hlo: str, num_devices: int) -> float:
    """Ring bytes that a device sends in one run."""
    return sum(num_bytes for _, num_bytes in collectives(hlo, num_devices))
