"""Compiled HLO, read from its text: computations, their instructions and what these read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import NamedTuple

_WIDTHS = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16, "token": 0,
}  # fmt: skip
_SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)$")


class Array(NamedTuple):
    """The type of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return _WIDTHS.get(self.dtype, 4) * prod(self.shape)


@dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    arrays: tuple[Array, ...]
    """Of the result; several where it is a tuple."""
    operands: tuple[str, ...]
    text: str
    """The whole line; attributes stand in it."""
    is_root: bool

    @property
    def num_bytes(self) -> int:
        return sum(array.num_bytes for array in self.arrays)

    def called(self, *attributes: str) -> list[str]:
        """The computations that attributes name: `body=%a`, `branch_computations={%a, %b}`."""
        found: list[str] = []
        for attribute in attributes:
            match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.text)
            found += re.findall(r"[\w.\-]+", match[1]) if match else []
        return found

    def numbers(self, attribute: str) -> list[int]:
        """Of `lhs_contracting_dims={0,1}`."""
        match = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.text)
        return [int(number) for number in match[1].split(",") if number] if match else []


@dataclass(frozen=True)
class Computation:
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {one.name: one for one in self.instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = {}
        for one in self.instructions:
            for operand in one.operands:
                found.setdefault(operand, []).append(one)
        return found

    @property
    def root(self) -> Instruction:
        return next(one for one in self.instructions if one.is_root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.by_name[name] for name in instruction.operands]


class Module(NamedTuple):
    computations: dict[str, Computation]
    entry: Computation


def parse(hlo: str) -> Module:
    """The module in a text as XLA prints compiled ones."""
    computations: dict[str, Computation] = {}
    entry = ""
    name, lines = "", list[Instruction]()
    for line in hlo.splitlines():
        head = _HEAD.match(line)
        if head:
            name, lines = head[2], []
            entry = name if head[1] else entry
        elif line == "}" and name:
            computations[name], name = Computation(tuple(lines)), ""
        elif name and (match := _INSTRUCTION.match(line)):
            lines.append(_instruction(match, line))
    return Module(computations, computations[entry])


def _instruction(match: re.Match[str], line: str) -> Instruction:
    rest = match["rest"]
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    opcode, _, _ = rest[end:].strip().partition("(")
    first = rest.index("(", end)
    inside = rest[first : _closing(rest, first)]
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n))
        for dtype, dims in _SHAPE.findall(rest[:end])
    )
    operands = () if opcode in ("constant", "parameter") else re.findall(r"%([\w.\-]+)", inside)
    return Instruction(
        match["name"], opcode, arrays, tuple(operands), line, match["root"] is not None
    )


def _closing(text: str, first: int) -> int:
    """The place after the bracket that closes the one at `first`."""
    depth = 0
    for place in range(first, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced brackets: {text[:80]}")
