"""Classes of ops that propagation tells apart by name, and constant expressions."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.elementwise import ARITH, CHLO, PLAIN
from autopar.dialects.rules.regions import MANUAL, NAMED, REGION_OPS
from autopar.dialects.stablehlo.collectives import COLLECTIVES

ELEMENTWISE = (
    (frozenset(f"stablehlo.{name}" for name in PLAIN) - COLLECTIVES - {"stablehlo.map"})
    | frozenset(f"chlo.{name}" for name in CHLO)
    | frozenset(f"arith.{name}" for name in ARITH)
    | frozenset(
        """stablehlo.add stablehlo.subtract stablehlo.multiply stablehlo.divide stablehlo.negate
        stablehlo.select stablehlo.convert stablehlo.real stablehlo.imag stablehlo.complex
        stablehlo.shift_left arith.select""".split()
    )
)
CONSTRAINTS = frozenset({"autopar.constraint", "sdy.sharding_constraint"})
_CONSTANTS = frozenset(
    {"stablehlo.constant", "stablehlo.iota", "arith.constant", "chlo.constant", "sdy.constant"}
)
RESHARDS = frozenset({"autopar.reshard", "sdy.reshard"})
BARRIER_OP = "sdy.propagation_barrier"
CONSTANT_FOLLOWERS = ELEMENTWISE | {
    BARRIER_OP,
    "stablehlo.broadcast_in_dim",
    "stablehlo.reshape",
    "stablehlo.slice",
}


KINDS: dict[str, str] = {
    **dict.fromkeys(ELEMENTWISE | CONSTRAINTS, "elementwise"),
    "stablehlo.reshape": "pass_through",
    "stablehlo.transpose": "pass_through",
    "stablehlo.dynamic_slice": "forward",
    "stablehlo.dynamic_update_slice": "forward",
    "stablehlo.broadcast_in_dim": "broadcast",
}
"""How op priorities treat an op; all others are "other"."""


def rank_of(value: SSAValue) -> int:
    """Rank of a tensor; 0 for everything else."""
    type_ = value.type
    return len(type_.shape.data) if isinstance(type_, TensorType) else 0


class ConstantFinder:
    """Tells constant expressions, visited in program order.

    Constants, iota, what is computed elementwise from these alone, and broadcasts of scalars cost
    nothing: each use may have a copy. Scalars themselves need none.
    """

    def __init__(self) -> None:
        self._expressions: set[int] = set()
        """Values (by id()) that are computed from constants alone."""

    def is_copied(self, op: Operation, name: str) -> bool:
        """Whether each use of `op` may have its own copy."""
        if name in CONSTANT_FOLLOWERS:
            expressions = self._expressions
            operands = operands_of(op)
            for value in operands:
                if id(value) not in expressions:
                    return name == "stablehlo.broadcast_in_dim" and not rank_of(operands[0])
        elif name not in _CONSTANTS:
            return False
        result = op.results[0]
        self._expressions.add(id(result))
        return rank_of(result) > 0


def find_constants(module: ModuleOp) -> set[int]:
    """The ops (by id()) of a module that each use may have a copy of."""
    finder = ConstantFinder()
    return {
        id(op)
        for func in module.body.block.ops
        if isinstance(func, FuncOp) and not func.is_declaration
        for op in _ops_in(func.body.block)
        if finder.is_copied(op, op.name)
    }


def _ops_in(block: Block) -> Iterator[Operation]:
    """The ops of a block and of the regions that propagation looks into."""
    for op in block.ops:
        yield op
        if op.regions and (op.name in REGION_OPS or op.name in (MANUAL, NAMED)):
            for region in op.regions:
                for inner in region.blocks:
                    yield from _ops_in(inner)
