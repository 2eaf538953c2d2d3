"""Classes of ops that propagation tells apart by name, and constant expressions."""

from __future__ import annotations

from collections.abc import Iterator

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.rules import elementwise
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL, NAMED, REGION_OPS
from autopar.dialects.rules.registry import op_classes

CONSTRAINTS = frozenset(elementwise.CONSTRAINTS)
_CONSTANTS = frozenset(
    {"stablehlo.constant", "stablehlo.iota", "arith.constant", "chlo.constant", "sdy.constant"}
)
RESHARDS = frozenset({"autopar.reshard", "sdy.reshard"})
BARRIER_OP = "sdy.propagation_barrier"
_FOLLOWERS = frozenset(
    {BARRIER_OP, "stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.slice"}
)


def constant_followers() -> frozenset[str]:
    """The ops (by name) that make constants of constants: elementwise ones, and those that only
    move elements."""
    every = frozenset(n for n, of in op_classes().items() if of == "elementwise")
    return (every - CONSTRAINTS) | _FOLLOWERS


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
        self._followers = constant_followers()

    def is_copied(self, op: Operation, name: str) -> bool:
        """Whether each use of `op` may have its own copy."""
        if name in self._followers:
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
