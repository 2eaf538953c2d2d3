"""Ring bytes of the collectives in compiled HLO, counted the same way for any program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

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


def collectives(hlo: str, num_devices: int) -> Iterator[tuple[str, float]]:
    """(kind, ring bytes a device) of every collective of an HLO module, loop bodies once."""
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
            yield kind, all_reduce_bytes(total, group)
        elif kind == "all-gather":
            yield kind, all_gather_bytes(total / group, group)
        elif kind == "reduce-scatter":
            yield kind, reduce_scatter_bytes(total * group, group)
        elif kind == "all-to-all":
            yield kind, all_to_all_bytes(total, group)
        else:
            yield kind, permute_bytes(total)


def _group_size(line: str, num_devices: int) -> int:
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    if iota:
        return int(iota[2])
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(listed[1].split(",")) if listed and listed[1] else num_devices


def total_bytes(hlo: str, num_devices: int) -> float:
    """Ring bytes that a device sends in one run."""
    return sum(num_bytes for _, num_bytes in collectives(hlo, num_devices))
