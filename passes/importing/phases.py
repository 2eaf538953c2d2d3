"""ZeRO-3's gathers: a sharded parameter is gathered for each phase that computes with it.

The phases of a step (forward, backward, update) are those that JAX's name stack tells in
locations. Sources: Rajbhandari et al., ZeRO, arXiv:1910.02054, section 5.3; the backward prefetch
of PyTorch's FSDP, arXiv:2304.11277, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import NameLoc, StringAttr, UnitAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import PHASE, REDUCE_IN_LOOP, ConstraintOp, sharding_of
from autopar.dialects.diagnostics import location_parts, remark
from autopar.dialects.sharding import Grid, Sharding
from autopar.dialects.stablehlo import OptimizationBarrierOp, WhileOp
from autopar.dialects.tensors import is_tensor, item_bytes, num_bytes, shape_of
from autopar.passes.cost.collectives import LATENCY_BOUND_BYTES
from autopar.passes.walk import sharded_ops


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
    phases = _Phases(func)
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
    for gather in gathers:
        source = sources.get(gather, gather.value)
        rank = len(source.type.get_shape()) if is_tensor(source.type) else 0
        constraint = ConstraintOp(source, Sharding.fully_replicated(grid.name, rank))
        constraint.location = gather.first.location
        constraint.attributes[PHASE] = StringAttr(gather.phase)
        Rewriter.insert_op(constraint, InsertPoint.before(gather.first))
        for op, index in gather.uses:
            op.operands[index] = constraint.result


def _gathers_of(arg: BlockArgument, phases: _Phases) -> list[_Gather]:
    groups: dict[tuple[SSAValue, str], list[tuple[Operation, int]]] = {}
    for value, op, index in _readers(arg, phases):
        phase = phases.of(op)
        if phase != "update":
            groups.setdefault((value, phase), []).append((op, index))
    return [
        _Gather(value, phase, uses, phases.first(op for op, _ in uses))
        for (value, phase), uses in groups.items()
    ]


def _readers(value: SSAValue, phases: _Phases) -> Iterator[tuple[SSAValue, Operation, int]]:
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
    loop: Operation, index: int, phases: _Phases
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


def _hold_back(gathers: Sequence[_Gather], phases: _Phases) -> dict[_Gather, SSAValue]:
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


def _is_made_before(gather: _Gather, other: _Gather, phases: _Phases) -> bool:
    """Whether what `gather` gathers is there when `other` is needed."""
    place, owner = other.first, gather.value.owner
    if gather.first.parent is not place.parent:
        return False
    if not isinstance(owner, Operation) or owner.parent is not place.parent:
        return True
    return phases.position(owner) < phases.position(place)


def _other_operand(gather: _Gather, gathered: set[SSAValue], phases: _Phases) -> int | None:
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


# ---- Phases --------------------------------------------------------------------------------------


class PhaseNames:
    """The phases of ops, by the name stacks in their locations; many ops share (parts of) one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Attribute, str]] = {}
        self._outermost: dict[int, tuple[Attribute, str]] = {}

    def outermost(self, op: Operation) -> str:
        """As `of`, by the outermost transformation alone: a gradient that is taken inside a
        function which is differentiated belongs to that function's forward phase."""
        known = self._outermost.get(id(op.location))
        if known is None:
            known = self._outermost[id(op.location)] = op.location, _outermost(op.location)
        return known[1]

    def of(self, op: Operation) -> str:
        """forward, backward or update."""
        location = op.location
        known = self._known.get(id(location))
        return self._of_location(location) if known is None else known[1]

    def _of_location(self, location: Attribute) -> str:
        """The phase that the names of a location tell."""
        known = self._known.get(id(location))
        if known is not None:
            return known[1]
        is_name = isinstance(location, NameLoc)
        phase = _phase_of_name(location.desc.data) if is_name else "update"
        for part in location_parts(location):
            phase = min(phase, self._of_location(part), key=_PHASES.index)
        self._known[id(location)] = (location, phase)
        return phase


class _Phases(PhaseNames):
    """The phase of each op, and program order.

    What JAX takes out of a scan or computes ahead has lost its phase's name: it is of the phase
    that reads it.
    """

    def __init__(self, func: FuncOp) -> None:
        super().__init__()
        ops = list(sharded_ops(func))
        self._position = dict(zip(map(id, ops), range(len(ops)), strict=True))
        """The place of each op in program order, by id()."""
        self.loops = [op for op in ops if op.__class__ is WhileOp]
        self._steps: dict[Operation, bool] = {}
        self._of_update: set[Operation] = set()
        """Ops without a phase's name that no other phase reads."""

    def of(self, op: Operation) -> str:
        phase = super().of(op)
        return phase if phase != "update" else self._of_readers(op)

    def _of_readers(self, op: Operation) -> str:
        """The phase that reads what an op without a phase's name computes, directly or not."""
        seen, stack = {op}, [op]
        while stack:
            for result in stack.pop().results:
                for use in result.uses:
                    user = use.operation
                    if user in seen or user in self._of_update:
                        continue
                    phase = super().of(user)
                    if phase != "update":
                        return phase
                    seen.add(user)
                    stack.append(user)
        self._of_update |= seen
        return "update"

    def position(self, op: Operation) -> int:
        """The op's place in program order."""
        return self._position[id(op)]

    def holds_steps(self, loop: Operation) -> bool:
        """Whether each iteration of the loop has a forward and a backward phase."""
        known = self._steps.get(loop)
        if known is None:
            found = {self.of(op) for op in sharded_ops(loop)}
            known = self._steps[loop] = {"forward", "backward"} <= found
        return known

    def first(self, ops: Iterable[Operation]) -> Operation:
        """The op that comes first; all stand in the same block."""
        return min(ops, key=lambda op: self._position[id(op)])


_PHASES = ("backward", "forward", "update")
"""The phases; where the names of an op tell several, the first of them holds."""


def _outermost(location: Attribute) -> str:
    name = location.desc.data if isinstance(location, NameLoc) else ""
    backward, forward = name.find("transpose("), name.find("jvp(")
    if backward >= 0 or forward >= 0:
        return "backward" if 0 <= backward < forward or forward < 0 else "forward"
    parts = (_outermost(part) for part in location_parts(location))
    return next((phase for phase in parts if phase != "update"), "update")


def _phase_of_name(name: str) -> str:
    """The phase that one of JAX's name stacks tells."""
    if "transpose(" in name or "rematted_computation" in name:
        return "backward"
    return "forward" if "jvp(" in name else "update"
