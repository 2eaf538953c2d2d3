"""What a partitioned program costs: seconds of one run on one device.

Dots, convolutions and what else states FLOPs pay the roofline, collectives alpha and beta
(`prices.py`), those that run as one (`merging.py`) alpha once for each message; of other ops the
reading of kept values and the writing of their results counts (`fusion.py`), or the operations on
their elements where these take longer. Bodies of loops are counted by their trips, of branches the
dearest. Compute and communication are added up: nothing is taken to overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation

from autopar.dialects.autopar import COMBINE
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid
from autopar.dialects.tensors import num_bytes
from autopar.passes.entry import main_function

from .flops import compute_type, op_flops, output_features
from .fusion import Fusion
from .liveness import FusionOf
from .loops import known_trips, times
from .merging import MESSAGE_BYTES
from .op_kinds import BODIES, DOTS
from .prices import CostModel, Operations
from .report import collective_use, paid_axes

Collective = tuple[str, tuple[str, ...]]
"""Kind and grid axes of a collective: `("all_gather", ("data",))`."""


@dataclass(frozen=True)
class Price:
    """Seconds of one run."""

    compute: float = 0.0
    """Of dots, convolutions, other ops that state FLOPs, and what takes longer to compute than to
    read and write."""
    memory: float = 0.0
    """Of all other ops: their traffic with memory."""
    communication: Mapping[Collective, float] = field(default_factory=dict[Collective, float])

    @property
    def communication_total(self) -> float:
        return sum(self.communication.values())

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.compute + self.memory + self.communication_total

    def __add__(self, other: Price) -> Price:
        communication = defaultdict[Collective, float](float, self.communication)
        for collective, seconds in other.communication.items():
            communication[collective] += seconds
        return Price(self.compute + other.compute, self.memory + other.memory, dict(communication))

    def __mul__(self, runs: int) -> Price:
        communication = {key: runs * seconds for key, seconds in self.communication.items()}
        return Price(runs * self.compute, runs * self.memory, communication)


def price_of(module: ModuleOp, model: CostModel, fusion_of: FusionOf = Fusion) -> Price:
    """The price of `@main` of a module after shard-partition; `model` is of its `user_grid`."""
    return _Pricing(model, grid_of(module), fusion_of).block(main_function(module).body.block)


def op_seconds(module: ModuleOp, model: CostModel) -> dict[Operation, float]:
    """Seconds of each op of `@main` of a partitioned module, all its runs together; those of a
    branch as if it were always taken."""
    pricing = _Pricing(model, grid_of(module), Fusion)
    pricing.block(main_function(module).body.block)
    loops: dict[Operation, int] = {}
    return {op: times(op, loops) * seconds for op, seconds in pricing.of_op.items()}


@dataclass(frozen=True)
class _Pricing:
    """Prices the blocks of one module."""

    model: CostModel
    grid: Grid
    fusion_of: FusionOf
    of_op: dict[Operation, float] = field(default_factory=dict[Operation, float])
    """Seconds of one run of each op that is priced by itself."""

    def block(self, block: Block) -> Price:
        fusion = self.fusion_of(block)
        compute = memory = 0.0
        communication: dict[Collective, float] = defaultdict(float)
        nested: list[Price] = []
        messages = _Messages(fusion)
        for op in fusion.ops:
            use = collective_use(op, self.grid, {})
            if use is not None:
                axes = paid_axes(use.axes, use.group, self.grid)
                seconds = self.model.collective_seconds(use.kind, use.local_bytes, axes)
                if not messages.begins(op):
                    seconds -= self.model.collective_seconds(use.kind, 0.0, axes)
                packing = self.model.memory_seconds(messages.packed(op))
                communication[use.kind, use.axes] += seconds
                memory += packing
                self.of_op[op] = seconds + packing
            elif op.name in BODIES:
                nested.append(self._bodies(op))
            elif op.name in DOTS or op_flops(op):
                moved = _traffic(fusion, op)
                self.of_op[op] = self.model.compute_seconds(
                    op_flops(op), moved, compute_type(op), output_features(op)
                )
                compute += self.of_op[op]
            elif not op.name.endswith(".return"):
                operations = Operations.total(fusion.computes(op).values())
                own, moved = self.model.elementwise_seconds(operations), _traffic(fusion, op)
                moving = self.model.memory_seconds(moved)
                self.of_op[op] = max(own, moving)
                compute += own if own > moving else 0.0
                memory += moving if own <= moving else 0.0
        return sum(nested, Price(compute, memory, dict(communication)))

    def _bodies(self, op: Operation) -> Price:
        if op.name == "stablehlo.while":
            return self.block(op.regions[1].block) * known_trips(op)
        branches = [self.block(region.block) for region in op.regions]
        return max(branches, key=lambda price: price.total)


class _Messages:
    """Which collectives of a block are sent in one message: those that are lowered as one, and
    all_reduces that run together, up to what a message has."""

    def __init__(self, fusion: Fusion) -> None:
        self._place = {
            op: (number, unit)
            for number, step in enumerate(fusion.steps)
            for unit in step
            for op in unit
        }
        self._room: dict[int, float] = {}
        """Bytes that the last message of a step has room for."""

    def packed(self, op: Operation) -> float:
        """The bytes of copying the full buffer of a collective into that of several which are
        lowered as one, or out of it."""
        _, unit = self._place[op]
        if len(unit) == 1 or COMBINE not in op.attributes:
            return 0.0
        return 2.0 * max(num_bytes(value.type) for value in (*op.operands, *op.results))

    def begins(self, op: Operation) -> bool:
        """Whether a collective is the first of a message; they are asked for in their order."""
        step, unit = self._place[op]
        if op is not unit[0]:
            return False
        size = sum(num_bytes(operand.type) for one in unit for operand in one.operands)
        room = self._room.get(step, 0)
        is_first = size > room
        self._room[step] = (MESSAGE_BYTES if is_first else room) - size
        return is_first


def _traffic(fusion: Fusion, op: Operation) -> float:
    """Bytes that an op reads from memory and writes to it; none for what is computed in others."""
    written = fusion.writes(op)
    return sum(fusion.reads(op).values()) + sum(written.values()) if written else 0.0
