"""Ring bytes of the collectives in compiled HLO, counted the same way for any program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain, combinations
from math import prod
from typing import Any, NamedTuple

import numpy as np

from autopar.dialects.sharding import AxisRef, Grid
from autopar.passes.cost.report import RING_BYTES, collective_kind

from .hlo_text import Computation, Instruction, Module, parse


class HloUse(NamedTuple):
    """A collective of an HLO module."""

    kind: str
    """As of a `CollectiveUse`."""
    axes: tuple[str, ...]
    """The grid axes, or sub-axes, that it runs over; none where its groups are those of none."""
    group: int
    """Devices that take part in one instance."""
    num_bytes: float
    """Ring bytes that a device sends."""
    local_bytes: float
    """What each device puts in."""


def use_of(instruction: Instruction, of: Computation, grid: Grid) -> HloUse | None:
    """What an instruction moves; None if it is no collective. Devices are numbered as a grid's."""
    name = _name(instruction)
    if name is None:
        return None
    num_bytes, local_bytes = _bytes(instruction, of, name, grid.num_devices)
    kind = collective_kind(name)
    return HloUse(kind, *_axes(instruction.text, kind, grid), num_bytes, local_bytes)


def uses(module: Module, grid: Grid) -> Iterator[HloUse]:
    """The collectives of an HLO module, loop bodies once."""
    for computation in module.computations.values():
        for instruction in computation.instructions:
            use = use_of(instruction, computation, grid)
            if use is not None:
                yield use


def collectives(hlo: str, num_devices: int) -> Iterator[tuple[str, float]]:
    """(kind, ring bytes a device) of every collective of an HLO module, loop bodies once."""
    for computation in parse(hlo).computations.values():
        for instruction in computation.instructions:
            name = _name(instruction)
            if name is not None:
                num_bytes, _ = _bytes(instruction, computation, name, num_devices)
                yield collective_kind(name), num_bytes


def total_bytes(hlo: str, num_devices: int) -> float:
    """Ring bytes that a device sends in one run, loop bodies once."""
    return sum(num_bytes for _, num_bytes in collectives(hlo, num_devices))


def _name(instruction: Instruction) -> str | None:
    """StableHLO's name of `all-reduce` and of the first half of a pair, `all-reduce-start`."""
    name = f"stablehlo.{instruction.opcode.removesuffix('-start').replace('-', '_')}"
    return name if name in RING_BYTES else None


def _bytes(
    instruction: Instruction, of: Computation, name: str, num_devices: int
) -> tuple[float, float]:
    """Ring bytes, and what a device puts in."""
    groups = _groups(instruction.text)
    group = len(next(iter(groups))) if groups else num_devices
    local_bytes = float(sum(operand.num_bytes for operand in of.operands(instruction)))
    return RING_BYTES[name](local_bytes, group), local_bytes


# ---- Which axes ----------------------------------------------------------------------------------


def _axes(line: str, kind: str, grid: Grid) -> tuple[tuple[str, ...], int]:
    """The grid axes of a collective, none where its groups are those of none, and the size of a
    group."""
    names = tuple(name for name, size in grid.axes if size > 1)
    if kind == "permute":
        pairs = re.search(r"source_target_pairs=\{.*?\}\}", line)
        found = re.findall(r"\{(\d+),(\d+)", pairs[0]) if pairs else []
        ends = [(int(a), int(b)) for a, b in found]
        moved = tuple(name for name in names if _differs(grid, name, ends))
        return moved, prod(grid.sizes[name] for name in moved)
    groups = _groups(line)
    if not groups:
        return names, grid.num_devices
    for axes in _sets_of_axes(grid):
        if groups == {frozenset(group) for group in grid.groups(axes)}:
            return tuple(axis.spelled for axis in axes), grid.parts(axes)
    return (), len(next(iter(groups)))


def _differs(grid: Grid, name: str, ends: list[tuple[int, int]]) -> bool:
    axis = AxisRef(name)
    return any(grid.coordinate(a, axis) != grid.coordinate(b, axis) for a, b in ends)


def _sets_of_axes(grid: Grid) -> Iterator[tuple[AxisRef, ...]]:
    """Whole axes, then parts of one of them, with whole others."""
    whole = [AxisRef(name) for name, size in grid.axes if size > 1]
    yield from chain.from_iterable(combinations(whole, n) for n in range(1, len(whole) + 1))
    for axis in whole:
        others = [other for other in whole if other != axis]
        size = grid.sizes[axis.name]
        for pre in (n for n in range(1, size) if size % n == 0):
            for own in (n for n in range(2, size) if size % (pre * n) == 0):
                for count in range(len(others) + 1):
                    for chosen in combinations(others, count):
                        yield (AxisRef(axis.name, pre, own), *chosen)


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
