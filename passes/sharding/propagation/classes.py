"""Classes of ops that propagation tells apart by name, and constant expressions."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, SSAValue

from autopar.dialects.rules.elementwise import ARITH, CHLO, PLAIN
from autopar.dialects.rules.regions import MANUAL, NAMED, REGION_OPS

_NOT_ELEMENTWISE = {
    "map",
    "all_reduce",
    "collective_permute",
    "collective_broadcast",
    "cross-replica-sum",
}
ELEMENTWISE = (
    frozenset(f"stablehlo.{name}" for name in PLAIN if name not in _NOT_ELEMENTWISE)
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
CONSTANT_FOLLOWERS = ELEMENTWISE | {
    "stablehlo.broadcast_in_dim",
    "stablehlo.reshape",
    "stablehlo.slice",
}


def rank_of(value: SSAValue) -> int:
    """Rank of a tensor; 0 for everything else."""
    type_ = value.type
    return len(type_.shape.data) if isinstance(type_, TensorType) else 0


def find_constants(module: ModuleOp) -> set[int]:
    """The ops (by id()) that each use may have a copy of, for they cost nothing.

    Constants, iota, what is computed elementwise from these alone, and broadcasts of scalars; not
    scalars themselves.
    """
    expressions: set[int] = set()
    copied: set[int] = set()
    for op in module.body.block.ops:
        if isinstance(op, FuncOp) and not op.is_declaration:
            _find_in_block(op.body.block, expressions, copied)
    return copied


def _find_in_block(block: Block, expressions: set[int], copied: set[int]) -> None:
    for op in block.ops:
        name = op.name
        if name in _CONSTANTS:
            expressions.add(id(op))
            if rank_of(op.results[0]):
                copied.add(id(op))
        elif name in CONSTANT_FOLLOWERS:
            operands = op.operands
            if all(id(value.owner) in expressions for value in operands):
                expressions.add(id(op))
                if rank_of(op.results[0]):
                    copied.add(id(op))
            elif name == "stablehlo.broadcast_in_dim" and not rank_of(operands[0]):
                copied.add(id(op))
        elif name in REGION_OPS or name in (MANUAL, NAMED):
            for region in op.regions:
                for inner in region.blocks:
                    _find_in_block(inner, expressions, copied)
