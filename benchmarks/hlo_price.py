"""What compiled HLO costs: a second reading of both plans, which has no part in the planner.

FLOPs, bytes and collectives are counted in the text that XLA gives back, bodies of loops by their
trips (`cost_analysis()` counts them once) and of branches the dearest, and priced at the rates of a
`CostModel`: an instruction with dots or convolutions by the roofline, any other by what it reads
and writes at the boundary of its fusion or by what it computes for its elements, whichever takes
longer, a collective by alpha and beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from autopar.dialects.sharding import Grid
from autopar.passes.cost.prices import CostModel, Operations
from autopar.passes.cost.program import Collective, Price
from autopar.passes.cost.report import paid_axes

from .hlo_bytes import use_of
from .hlo_flops import convolution_flops, dot_flops, output_features
from .hlo_text import Computation, Instruction, Module

_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all replica-id partition-id "
    "opt-barrier add-dependency all-reduce-done all-gather-done collective-permute-done".split()
)
_SIMPLE = frozenset(
    "abs add and ceil clamp compare convert count-leading-zeros floor is-finite maximum minimum "
    "multiply negate not or popcnt round-nearest-afz round-nearest-even select shift-left "
    "shift-right-arithmetic shift-right-logical sign subtract xor".split()
)
_ROOTS = frozenset(("divide", "remainder", "rsqrt", "sqrt"))
"""As dear as a few simple ones."""
_FUNCTIONS = frozenset(
    "atan2 cbrt cosine erf exponential exponential-minus-one log log-plus-one logistic power sine "
    "tan tanh".split()
)
_CUTS = frozenset(("slice", "dynamic-slice", "gather"))
"""Read of their first operand what they give."""
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Written in place: which operand is the update."""


@dataclass
class Work:
    """What one device does in a run."""

    flops: float = 0.0
    num_bytes: float = 0.0
    """That are read and written."""
    sent: dict[Collective, float] = field(default_factory=dict[Collective, float])
    """Ring bytes by kind and grid axes."""
    messages: float = 0.0
    """Collectives that send something."""
    price: Price = field(default_factory=Price)

    def add(self, other: Work, runs: int = 1) -> None:
        self.flops += runs * other.flops
        self.num_bytes += runs * other.num_bytes
        self.messages += runs * other.messages
        for collective, num_bytes in other.sent.items():
            self.sent[collective] = self.sent.get(collective, 0.0) + runs * num_bytes
        self.price += other.price * runs


def work_of(module: Module, grid: Grid, prices: CostModel) -> Work:
    """The work of a device in one run of compiled HLO."""
    return _Reading(module, grid, prices).computation(module.entry)


@dataclass(frozen=True)
class _Reading:
    module: Module
    grid: Grid
    prices: CostModel

    def computation(self, of: Computation) -> Work:
        found = Work()
        for instruction in of.instructions:
            if instruction.opcode not in _FREE:
                work, runs = self._instruction(instruction, of)
                found.add(work, runs)
        return found

    def _instruction(self, one: Instruction, of: Computation) -> tuple[Work, int]:
        """The work of one run, and how often it runs."""
        if one.opcode == "while":
            return self._all(one.called("body")), trip_count(one)
        if one.opcode == "call":
            return self._all(one.called("to_apply")), 1
        if one.opcode == "conditional":
            names = one.called("branch_computations", "true_computation", "false_computation")
            branches = [self._all([name]) for name in names]
            return max(branches, key=lambda work: work.price.total), 1
        return self._collective(one, of) or self._local(one, of), 1

    def _all(self, names: Iterable[str]) -> Work:
        found = Work()
        for name in names:
            found.add(self.computation(self.module.computations[name]))
        return found

    def _collective(self, one: Instruction, of: Computation) -> Work | None:
        use = use_of(one, of, self.grid)
        if use is None:
            return None
        key = use.kind, use.axes
        axes = paid_axes(use.axes, use.group, self.grid)
        seconds = self.prices.collective_seconds(use.kind, use.local_bytes, axes)
        sends = use.num_bytes if axes else 0.0
        return Work(0.0, 0.0, {key: sends}, float(sends > 0), Price(communication={key: seconds}))

    def _local(self, one: Instruction, of: Computation) -> Work:
        """An instruction that stays on the device."""
        inner = self._inner(one)
        moved = _traffic(one, of, inner)
        seconds = flops = 0.0
        for part, where in _contractions(one, of, inner):
            features = output_features(part) if part.opcode == "convolution" else None
            own = _flops(part, where)
            (dtype, *_) = (operand.arrays[0].dtype for operand in where.operands(part))
            seconds += self.prices.compute_seconds(own, 0.0, _mlir(dtype), features)
            flops += own
        memory = self.prices.memory_seconds(moved)
        if flops:
            return Work(flops, moved, price=Price(compute=max(seconds, memory)))
        where = inner or of
        operations = Operations.total(
            _operations(part, where) for part in (inner.instructions if inner else (one,))
        )
        seconds = self.prices.elementwise_seconds(operations)
        price = Price(compute=seconds) if seconds > memory else Price(memory=memory)
        return Work(0.0, moved, price=price)

    def _inner(self, one: Instruction) -> Computation | None:
        """What a fusion computes."""
        if one.opcode != "fusion":
            return None
        (name,) = one.called("calls")
        return self.module.computations[name]


def trip_count(loop: Instruction) -> int:
    """How often a body runs, as XLA found it; 1 where it did not."""
    match = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
    return int(match[1]) if match else 1


def _contractions(
    one: Instruction, of: Computation, inner: Computation | None
) -> list[tuple[Instruction, Computation]]:
    """The dots and convolutions of an instruction, and where they stand."""
    where = inner or of
    parts = where.instructions if inner else (one,)
    return [(part, where) for part in parts if part.opcode in ("dot", "convolution")]


def _flops(part: Instruction, where: Computation) -> int:
    return dot_flops(part, where) if part.opcode == "dot" else convolution_flops(part, where)


def _operations(part: Instruction, where: Computation) -> Operations:
    """What an instruction computes for its elements, counted as numbers of 4 bytes."""
    count = part.num_bytes / 4
    if part.opcode in _SIMPLE:
        return Operations(simple=count)
    if part.opcode in _ROOTS:
        return Operations(simple=4 * count)
    if part.opcode in _FUNCTIONS:
        return Operations(functions=count)
    if part.opcode == "reduce":
        operands = where.operands(part)
        size = sum(operand.num_bytes for operand in operands[: len(operands) // 2])
        return Operations(simple=size / 4)
    return Operations()


def _mlir(dtype: str) -> str:
    """The element type in MLIR's words."""
    if dtype == "pred":
        return "i1"
    complexes = {"c64": "complex<f32>", "c128": "complex<f64>"}
    return complexes.get(dtype, dtype.replace("s", "i") if dtype.startswith("s") else dtype)


# ---- Bytes ---------------------------------------------------------------------------------------


def _traffic(one: Instruction, of: Computation, inner: Computation | None) -> float:
    """Bytes that an instruction reads and writes."""
    if inner is None:
        return _written(one, of) + sum(
            operand.num_bytes * _share(one, index, operand)
            for index, operand in enumerate(of.operands(one))
        )
    parameters = [p for p in inner.instructions if p.opcode == "parameter"]
    read = sum(parameter.num_bytes * _needed(parameter, inner) for parameter in parameters)
    return read + _written(inner.root, inner)


def _needed(value: Instruction, inner: Computation) -> float:
    """The share of a value in a fusion that is read."""
    shares = [
        _needed(user, inner) if user.opcode == "bitcast" else _share(user, index, value)
        for user in inner.users.get(value.name, [])
        for index, name in enumerate(user.operands)
        if name == value.name
    ]
    return max(shares, default=1.0 if value.is_root else 0.0)


def _share(user: Instruction, index: int, operand: Instruction) -> float:
    if index == 0 and user.opcode in _CUTS:
        return min(1.0, user.num_bytes / max(1, operand.num_bytes))
    return 0.0 if index == 0 and user.opcode in _UPDATES else 1.0


def _written(one: Instruction, of: Computation) -> float:
    """Bytes that an instruction, or a fusion whose root it is, writes."""
    if one.opcode == "tuple":
        return sum(_written(part, of) for part in of.operands(one))
    if one.opcode == "bitcast":
        return _written(of.operands(one)[0], of)
    if one.opcode in _UPDATES:
        return of.operands(one)[_UPDATES[one.opcode]].num_bytes
    return one.num_bytes
