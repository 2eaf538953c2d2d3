"""ZeRO-3's gathers: a sharded parameter is gathered for each phase that computes with it.

Sources: Rajbhandari et al., ZeRO, arXiv:1910.02054, section 5.3; the backward prefetch of
PyTorch's FSDP, arXiv:2304.11277, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import StringAttr, UnitAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import PHASE, REDUCE_IN_LOOP, ConstraintOp, ShardingAttr, sharding_of
from autopar.dialects.diagnostics import remark
from autopar.dialects.sharding import Grid, Sharding
from autopar.dialects.stablehlo import OptimizationBarrierOp
from autopar.dialects.tensors import item_bytes, num_bytes, shape_of
from autopar.passes.cost.collectives import LATENCY_BOUND_BYTES

from .phases import Phases


@dataclass(eq=False)
class _Gather:
    """A view of a parameter that one phase computes with."""

    value: SSAValue
    phase: str
    uses: list[tuple[Operation, int]]
    """The ops that compute with it, and the operand's index; all in one block."""
    first: Operation
    """The earliest of them."""


def gather_by_phase(func: FuncOp, parameters: Iterable[BlockArgument], grid: Grid) -> None:
    """Gathers sharded parameters for their forward uses and once more for their backward uses.

    The two gathers are distinct ops that nothing merges; the backward one takes its input through
    an optimization barrier with a value of the backward phase, so that it cannot run early.
    What is gathered is the smallest view: the slice that a loop over layers takes, the narrower
    type that the parameter is converted to. Uses in the update phase read the shard.
    Loops over microbatches are marked: the gradients that they add up are not to be kept whole.
    """
    phases = Phases(func)
    for loop in phases.loops:
        if phases.holds_steps(loop):
            loop.attributes[REDUCE_IN_LOOP] = UnitAttr()
    gathers: list[_Gather] = []
    sharded: list[BlockArgument] = []
    for arg in parameters:
        sharding = sharding_of(arg)
        if sharding is not None and not sharding.is_replicated:
            sharded.append(arg)
            gathers += _gathers_of(arg, phases)
    if sharded and not gathers:
        remark(
            func,
            f"no op that reads the {len(sharded)} sharded parameters is known to belong to the "
            "forward or backward phase, so that they are not gathered by phase: phases are read "
            "from JAX's locations of a program with gradients (as_text(debug_info=True))",
        )
    sources = _hold_back([g for g in gathers if g.phase == "backward"], phases)
    # Attributes of their own would make each constraint an op like no other to later passes.
    ranks = {len(shape_of(gather.value.type)) for gather in gathers}
    whole = {rank: ShardingAttr(Sharding.fully_replicated(grid.name, rank)) for rank in ranks}
    names = {gather.phase: StringAttr(gather.phase) for gather in gathers}
    for gather in gathers:
        source = sources.get(gather, gather.value)
        constraint = ConstraintOp(source, whole[len(shape_of(source.type))])
        constraint.location = gather.first.location
        constraint.attributes[PHASE] = names[gather.phase]
        Rewriter.insert_op(constraint, InsertPoint.before(gather.first))
        for op, index in gather.uses:
            op.operands[index] = constraint.result


def _gathers_of(arg: BlockArgument, phases: Phases) -> list[_Gather]:
    groups: dict[tuple[SSAValue, str], list[tuple[Operation, int]]] = {}
    for value, op, index in _readers(arg, phases):
        phase = phases.of(op)
        if phase != "update":
            groups.setdefault((value, phase), []).append((op, index))
    return [
        _Gather(value, phase, uses, phases.first(op for op, _ in uses))
        for (value, phase), uses in groups.items()
    ]


def _readers(value: SSAValue, phases: Phases) -> Iterator[tuple[SSAValue, Operation, int]]:
    """(view of `value`, op that computes with it, operand index)."""
    for use in list(value.uses):
        op = use.operation
        if op.name == "stablehlo.while":
            inner = _read_inside(op, use.index, phases)
            yield from [(value, op, use.index)] if inner is None else inner
        elif op.name == "stablehlo.return":
            continue  # handed on to the next iteration
        elif op.name in _MOVES or _narrows(op):
            yield from _readers(op.results[0], phases)
        else:
            yield value, op, use.index


def _read_inside(
    loop: Operation, index: int, phases: Phases
) -> list[tuple[SSAValue, Operation, int]] | None:
    """The readers of a loop's operand inside the loop; None: it is read there as one whole.

    What every iteration reads whole is gathered once, before the loop (the weights of a recurrent
    network), unless an iteration is a step of its own, with both its phases (a microbatch): then
    all that a step reads would be there at once.
    """
    block = loop.regions[1].block
    last, argument = block.last_op, block.args[index]
    if last is None or last.operands[index] is not argument:
        return None
    inner = list(_readers(argument, phases))
    if phases.holds_steps(loop) or all(_is_slice(value, argument) for value, _, _ in inner):
        return inner
    return None


def _is_slice(value: SSAValue, whole: SSAValue) -> bool:
    """Whether a view of `whole` is a part of it."""
    return prod(shape_of(value.type)) < prod(shape_of(whole.type))


_MOVES = frozenset({"stablehlo.dynamic_slice", "stablehlo.reshape", "stablehlo.transpose"})
"""Views that forward and backward phase may share: what is gathered is what they give."""


def _narrows(op: Operation) -> bool:
    if op.name != "stablehlo.convert":
        return False
    return item_bytes(op.results[0].type) < item_bytes(op.operands[0].type)


# ---- The backward phase --------------------------------------------------------------------------


def _hold_back(gathers: Sequence[_Gather], phases: Phases) -> dict[_Gather, SSAValue]:
    """What backward gathers read: their values behind barriers that the backward phase opens.

    A barrier joins the values of the gathers that follow each other, up to `LATENCY_BOUND_BYTES`
    (small ones then share a collective), with another operand of the first one's first use.
    """
    gathered = {gather.value for gather in gathers}
    sources: dict[_Gather, SSAValue] = {}
    bucket: list[_Gather] = []
    anchor: int | None = None
    size = 0
    for gather in sorted(gathers, key=lambda g: phases.position(g.first)):
        size += num_bytes(gather.value.type)
        if bucket and (
            size > LATENCY_BOUND_BYTES or not _is_made_before(gather, bucket[0], phases)
        ):
            sources.update(_barrier(bucket, anchor))
            bucket = []
        if not bucket:
            anchor = _other_operand(gather, gathered, phases)
            size = num_bytes(gather.value.type)
        bucket.append(gather)
        if anchor is None:  # nothing of the backward phase to wait for
            bucket = []
    if bucket:
        sources.update(_barrier(bucket, anchor))
    return sources


def _is_made_before(gather: _Gather, other: _Gather, phases: Phases) -> bool:
    """Whether what `gather` gathers is there when `other` is needed."""
    place, owner = other.first, gather.value.owner
    if gather.first.parent is not place.parent:
        return False
    if not isinstance(owner, Operation) or owner.parent is not place.parent:
        return True
    return phases.position(owner) < phases.position(place)


def _other_operand(gather: _Gather, gathered: set[SSAValue], phases: Phases) -> int | None:
    """The operand of the first use to wait for: one that the backward phase computes, else one that
    any op does; no parameter, and nothing that is there from the start."""
    made = [
        (index, value.owner)
        for index, value in enumerate(gather.first.operands)
        if value not in gathered and isinstance(value.owner, Operation) and not _is_constant(value)
    ]
    late = (i for i, owner in made if phases.of(owner) == "backward")
    return next(late, made[0][0] if made else None)


def _is_constant(value: SSAValue) -> bool:
    """Whether a value is a constant, in whatever shape."""
    owner = value.owner
    while isinstance(owner, Operation) and owner.name in _RESHAPES:
        owner = owner.operands[0].owner
    return isinstance(owner, Operation) and not owner.operands


_RESHAPES = frozenset(
    {"stablehlo.broadcast_in_dim", "stablehlo.convert", "stablehlo.reshape", "stablehlo.transpose"}
)


def _barrier(bucket: Sequence[_Gather], anchor: int | None) -> dict[_Gather, SSAValue]:
    assert anchor is not None
    first = bucket[0].first
    operands = [*(gather.value for gather in bucket), first.operands[anchor]]
    barrier = OptimizationBarrierOp.create(
        operands=operands, result_types=[value.type for value in operands]
    )
    barrier.location = first.location
    Rewriter.insert_op(barrier, InsertPoint.before(first))
    first.operands[anchor] = barrier.results[-1]
    return dict(zip(bucket, barrier.results, strict=False))
