"""What XLA makes of an op: code inside others or not, dear or cheap, and what that reads."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeGuard

from xdsl.ir import Block, Operation, OpResult, SSAValue

from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import BARRIER
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.dialects.traits import Elementwise

from .flops import dot_numbers
from .prices import Operations

DOTS = frozenset({"stablehlo.dot_general", "stablehlo.convolution"})
_CHEAP = frozenset(
    f"stablehlo.{name}"
    for name in (
        "broadcast_in_dim", "clamp", "concatenate", "dynamic_slice", "iota", "pad", "reverse",
        "select", "slice", "transpose", "get_tuple_element", "bitcast_convert",
    )
) | {"shard.all_slice"}  # fmt: skip
_DEAR = frozenset(
    f"stablehlo.{name}"
    for name in (
        "atan2", "cbrt", "cosine", "divide", "exponential", "exponential_minus_one", "log",
        "log_plus_one", "logistic", "power", "remainder", "rsqrt", "sine", "sqrt", "tan", "tanh",
    )
)  # fmt: skip
_COMPUTED = frozenset({"stablehlo.clamp", "stablehlo.select"})
"""The cheap ones that compute something."""
_ROOTS = frozenset({"stablehlo.divide", "stablehlo.remainder", "stablehlo.rsqrt", "stablehlo.sqrt"})
"""Dear ones that take but a few instructions."""
_CHEAP_CHLO = frozenset(
    {"chlo.conj", "chlo.is_inf", "chlo.is_neg_inf", "chlo.is_pos_inf", "chlo.square"}
)
VIEWS = frozenset({"stablehlo.reshape", BARRIER})
LOOPS = frozenset({"stablehlo.while"})
BODIES = LOOPS | {"stablehlo.case", "stablehlo.if"}
"""Ops whose regions are programs."""
_REDUCE = "stablehlo.reduce"
COMPUTES_OPERANDS = frozenset({_REDUCE, "stablehlo.gather"})
"""Ops that compute what they read by themselves, and whose result is kept."""
_IN_PLACE = frozenset({"stablehlo.dynamic_update_slice", "stablehlo.scatter"})
_CUTS = frozenset(
    {"stablehlo.slice", "stablehlo.dynamic_slice", "stablehlo.gather", "shard.all_slice"}
)
BRANCHES = frozenset({"stablehlo.concatenate", "stablehlo.pad"})
"""Ops whose code has branches: what is computed in one of these is not there for other code of the
fusion, so that XLA lets them stand once alone (its `OpInvalidatesCache`)."""
CONSTANT = "stablehlo.constant"
_BROADCAST = "stablehlo.broadcast_in_dim"


def is_elementwise(op: Operation) -> bool:
    """Whether an op computes each element of its result from those at the same place."""
    return _is_elementwise(type(op))


@lru_cache(4096)  # looking for a trait goes through all that an op has
def _is_elementwise(kind: type[Operation]) -> bool:
    return kind.has_trait(Elementwise, value_if_unregistered=False)


def updates_in_place(op: Operation) -> bool:
    """Whether an op changes a part of its first operand."""
    return op.name in _IN_PLACE


def cuts_out(op: Operation) -> bool:
    """Whether an op reads no more of its first operand than its result has."""
    return op.name in _CUTS


def takes_computed(op: Operation, index: int) -> bool:
    """Whether an op that updates in place computes an operand by itself: a scatter does not."""
    return op.name == "stablehlo.dynamic_update_slice" and index > 0


def is_transpose(op: Operation | Block) -> TypeGuard[Operation]:
    return isinstance(op, Operation) and op.name == "stablehlo.transpose"


def swaps_dot(transpose: Operation) -> bool:
    """Whether an op transposes a matrix product, which is the product of both in turn (XLA's
    `AlgebraicSimplifier`)."""
    (value,) = transpose.operands
    is_dot = isinstance(value, OpResult) and value.op.name == "stablehlo.dot_general"
    return is_dot and value.has_one_use() and len(shape_of(value.type)) == 2


def is_code(op: Operation) -> bool:
    """Whether an op may be computed inside its users."""
    return op.name in _CHEAP or is_elementwise(op) or _is_outer_product(op)


def _is_outer_product(op: Operation) -> bool:
    """Whether an op is a dot that sums nothing: XLA multiplies what it broadcasts (its
    `AlgebraicSimplifier`)."""
    if op.name != "stablehlo.dot_general":
        return False
    sizes = shape_of(operands_of(op)[0].type)
    return all(sizes[dim] == 1 for dim in dot_numbers(op).lhs_contracting_dimensions)


def _is_unary(op: Operation) -> bool:
    """Whether an op reads no more than one operand that is as large as its result: made again, it
    reads no more than its result is (XLA's `EffectivelyAtMostUnary`)."""
    rank = len(shape_of(op.results[0].type))
    return sum(_is_whole(value, rank) for value in operands_of(op)) <= 1


def reads_more(value: SSAValue) -> bool:
    """Whether computing a value again reads more bytes than it has."""
    op = value.owner
    if not isinstance(op, Operation) or not is_code(op) or _is_unary(op):
        return False
    return sum(num_bytes(read.type) for read in dict.fromkeys(operands_of(op))) > num_bytes(
        value.type
    )


def is_cheap(value: SSAValue) -> bool:
    """Whether a kept value is no dearer to compute again than to read."""
    op = value.owner
    return isinstance(op, Operation) and is_code(op) and not is_dear(op) and not reads_more(value)


def _is_whole(value: SSAValue, rank: int) -> bool:
    maker = value.owner
    is_made = isinstance(maker, Operation) and maker.name in (CONSTANT, _BROADCAST)
    return not is_made and len(shape_of(value.type)) >= rank


def reads_from_memory(op: Operation) -> bool:
    """Whether an op needs its operands kept."""
    return not (is_code(op) or op.name in COMPUTES_OPERANDS)


def is_splat(op: Operation) -> bool:
    """Whether an op gives one scalar everywhere: cheaper made again than read, by every reader."""
    return op.name == "stablehlo.broadcast_in_dim" and not shape_of(operands_of(op)[0].type)


def is_dear(op: Operation) -> bool:
    """Whether computing an element again costs more than reading it."""
    return _is_dear(op.name)


def _is_dear(name: str) -> bool:
    return name in _DEAR or (name.startswith("chlo.") and name not in _CHEAP_CHLO)


def operations_of(op: Operation, share: float = 1.0) -> Operations | None:
    """What an op computes for a share of its elements, counted as numbers of 4 bytes, since lanes
    take more narrow ones at once: an elementwise op, and what a reduction adds up. None: nothing,
    as ops that only move elements, and all others."""
    if op.name == _REDUCE:
        read = operands_of(op)
        return Operations(
            share * sum(num_bytes(value.type) for value in read[: len(read) // 2]) / 4
        )
    each = _each_element(type(op))
    if each is None:
        return None
    count = share * num_bytes(op.results[0].type) / 4
    return Operations(count * each.simple, count * each.functions)


@lru_cache(4096)
def _each_element(kind: type[Operation]) -> Operations | None:
    name = kind.name
    if (name in _CHEAP and name not in _COMPUTED) or not _is_elementwise(kind):
        return None
    if name in _ROOTS:
        return Operations(simple=4)
    return Operations(functions=1) if _is_dear(name) else Operations(simple=1)


def repeats(op: Operation) -> bool:
    """Whether an op reads the elements of its operand again and again."""
    if op.name != "stablehlo.broadcast_in_dim" and not _is_outer_product(op):
        return False
    return num_bytes(op.results[0].type) > max(num_bytes(value.type) for value in operands_of(op))


def needed_of(share: float, value: SSAValue, maker: Operation, source: SSAValue) -> float:
    """The share of a source that is read where a share of a value made of it is: what is padded, or
    joined with others, may all be in the share that is needed."""
    if maker.name in BRANCHES:  # its result has more elements than the source
        return min(1.0, share * num_bytes(value.type) / max(1, num_bytes(source.type)))
    return share * share_of(maker, source)


def share_of(op: Operation, operand: SSAValue) -> float:
    """The share of an operand that an op reads."""
    if not cuts_out(op):
        return 1.0
    return min(1.0, num_bytes(op.results[0].type) / max(1, num_bytes(operand.type)))
