"""Where a step is cut into the part that runs once a microbatch and the update, by data flow."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xdsl.dialects.builtin import IntegerAttr, IntegerType, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.autopar import NEXT, OWN_SIZES, aliases, entries_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import element_type, is_tensor, num_bytes, shape_of

from .averages import Scaling, find_scalings
from .batch_flow import BatchFlow, BatchPlace, inputs_of, lost_by
from .crossing import Combination, Combiner, is_gradient, no_mean, take_conversions
from .degrees import UNKNOWN, Degrees
from .examples import Examples
from .foreign_rows import refuse_foreign_rows
from .second_pass import refuse_second_pass


@dataclass
class Cut:
    """Where a step is cut."""

    micro: set[Operation]
    """Top-level ops that run once a microbatch."""
    reduced: dict[SSAValue, Combination] = field(default_factory=dict[SSAValue, Combination])
    """Values that cross to the update part, and how they are put together."""
    examples: list[tuple[SSAValue, BatchPlace]] = field(
        default_factory=list[tuple[SSAValue, BatchPlace]]
    )
    """Results that are computed example by example, and where they hold the batch."""
    carried: list[tuple[int, SSAValue]] = field(default_factory=list[tuple[int, SSAValue]])
    """(argument index, value): state that the forward part writes."""
    scalings: list[Scaling] = field(default_factory=list[Scaling])
    """What the update reads of sums that are to be averaged."""


def find_cut(func: FuncOp, flow: BatchFlow, reduction: Literal["mean", "sum"], count: int) -> Cut:
    """Cuts the step by data flow; DiagnosticError where a loop and an update cannot compute it."""
    block = func.body.block
    terminator = block.last_op
    assert terminator is not None
    refuse_second_pass(block, flow)
    refuse_foreign_rows(block, flow)
    stated = stated_arguments(func)
    degrees = None if stated is None else Degrees(block, flow, count)
    if stated is None:
        shared = ((argument, result) for argument, result in aliases(func))
        stated = {r: a for a, r in shared if shape_of(block.args[a].type)}
    carried = _forward_state(func, flow, stated, degrees)
    seeds = [op for op in block.ops if op is not terminator and _touches_examples(op, flow)]
    seeds += [v.owner for _, v in carried if isinstance(v.owner, Operation)]
    micro = _needed_by(seeds, block)
    _take_gradient_ops(micro, block, flow)
    _take_linear_followers(micro, block, flow)
    crossing = _crossing(micro, block, flow)
    if degrees is None and take_conversions(crossing, micro, block):
        crossing = _crossing(micro, block, flow)
    cut = Cut(micro, carried=carried)
    results = _Results(func, flow, cut, stated)
    for index, value in enumerate(terminator.operands):
        if not flow.depends(value) or any(value is written for _, written in carried):
            continue
        place = results.place_of(index, value)
        if not is_made_in(value, micro):
            continue
        if place is None:
            crossing[value] = None
        elif not any(value is known for known, _ in cut.examples):
            cut.examples.append((value, place))
    for _, written in carried:
        crossing.pop(written, None)
    own_sizes = OWN_SIZES in func.attributes
    combiner = Combiner(
        flow, results.examples, degrees, reduction, count, frozenset(stated), own_sizes
    )
    cut.reduced = {value: combiner.of(value) for value in crossing}
    if degrees is not None:
        cut.scalings = find_scalings(block, micro, crossing, degrees, combiner)
    return cut


def _crossing(micro: set[Operation], block: Block, flow: BatchFlow) -> dict[SSAValue, None]:
    """What the update part reads of the microbatch part, in order."""
    return {
        value: None
        for op in block.ops
        if op not in micro and op is not block.last_op
        for value in inputs_of(op)
        if is_made_in(value, micro) and flow.depends(value) and not flow.is_per_example(value)
    }


def _touches_examples(op: Operation, flow: BatchFlow) -> bool:
    """Whether the op computes on single examples, in a region of it included."""
    if any(flow.is_per_example(v) for v in (*op.operands, *op.results)):
        return True
    return any(
        flow.is_per_example(v)
        for region in op.regions
        for inner in region.walk()
        for v in inner.operands
    )


def _forward_state(
    func: FuncOp, flow: BatchFlow, stated: Mapping[int, int], degrees: Degrees | None
) -> list[tuple[int, SSAValue]]:
    """State that goes from one microbatch to the next: a result of the forward phase that depends
    on the batch and is the next value of an argument which that phase reads (running statistics of
    a normalisation). A float scalar that stays as it is where the batch is repeated is averaged."""
    terminator = func.body.block.last_op
    assert terminator is not None
    found: list[tuple[int, SSAValue]] = []
    for result, value in enumerate(terminator.operands):
        if (
            result not in stated
            or not isinstance(value.owner, Operation)
            or not flow.depends(value)
            or flow.is_per_example(value)
            or flow.phases.of(value.owner) != "forward"
        ):
            continue
        argument = func.body.block.args[stated[result]]
        if not _is_read_forward(argument, flow):
            continue
        is_float = is_tensor(value.type) and not isinstance(element_type(value.type), IntegerType)
        if degrees is not None and is_float and not shape_of(value.type):
            if degrees.of(value) is not UNKNOWN:
                continue
            if not (value.owner.name == "stablehlo.add" and argument.has_one_use()):
                raise DiagnosticError(
                    value.owner,
                    f"result {result}{result_path(func, result)} ({value.type}) stands where "
                    f"argument {argument.index} stands, which the loss function reads, and is made "
                    "in it of a sum over the batch: whether it is state that goes from one "
                    "microbatch to the next or is to be averaged is not told; return it at "
                    "another place, or make a mean over the batch of it",
                )
        found.append((argument.index, value))
    return found


def _is_read_forward(argument: SSAValue, flow: BatchFlow) -> bool:
    """Whether the forward or backward phase reads an argument, or a view of it."""
    stack, seen = [argument], {argument}
    while stack:
        for use in stack.pop().uses:
            if flow.phases.of(use.operation) != "update":
                return True
            if use.operation.name in _VIEWS and use.operation.results[0] not in seen:
                seen.add(use.operation.results[0])
                stack.append(use.operation.results[0])
    return False


_VIEWS = (
    "stablehlo.broadcast_in_dim",
    "stablehlo.convert",
    "stablehlo.dynamic_slice",
    "stablehlo.reshape",
    "stablehlo.slice",
    "stablehlo.transpose",
)


def _take_gradient_ops(micro: set[Operation], block: Block, flow: BatchFlow) -> None:
    """Takes ops on reduced values that belong to single microbatches all the same: those of the
    forward and backward phase, by their names, and those that read what the microbatch part itself
    goes on computing with (a normalisation's statistics), by data flow."""
    examples = frozenset(micro)
    for op in block.ops:
        varying = [v for v in op.operands if flow.depends(v)]
        if op in micro or not op.results or not varying:
            continue
        if all(is_made_in(v, micro) for v in varying) and (
            flow.phases.of(op) != "update"
            or any(use.operation in examples for v in varying for use in v.uses)
        ):
            micro |= _needed_by([op], block, micro)


def _needed_by(
    seeds: Sequence[Operation], block: Block, known: Collection[Operation] = frozenset()
) -> set[Operation]:
    """The seeds and every op of the block that they need; of `known` all is known already."""
    needed: set[Operation] = set()
    stack = list(seeds)
    while stack:
        op = stack.pop()
        if op in needed or op in known:
            continue
        needed.add(op)
        for inner in op.walk():
            for value in inner.operands:
                owner = value.owner
                if isinstance(owner, Operation) and owner.parent is block and owner not in needed:
                    stack.append(owner)
    return needed


def _take_linear_followers(micro: set[Operation], block: Block, flow: BatchFlow) -> None:
    """Moves ops that only combine reduced values linearly into the microbatch part, where that
    leaves fewer bytes to accumulate (the sum of a tied weight's gradients). Extremes over the batch
    stay as they are: they are no sums."""
    for op in block.ops:
        if op in micro or len(op.results) != 1 or not flow.depends(op.results[0]):
            continue
        varying = [i for i, v in enumerate(op.operands) if flow.depends(v)]
        if not all(is_made_in(op.operands[i], micro) for i in varying):
            continue
        if any(not op.operands[i].has_one_use() for i in varying):
            continue
        makers = [o for i in varying if isinstance(o := op.operands[i].owner, Operation)]
        if any(lost_by(maker, flow) not in (None, "sum") for maker in makers):
            continue
        if any(
            isinstance(v.owner, Operation) and v.owner not in micro and not flow.depends(v)
            for v in op.operands
        ):
            continue
        rule = get_rule(op)
        if rule is None or not any(set(varying) == set(group) for group in rule.linear):
            continue
        if num_bytes(op.results[0].type) <= sum(num_bytes(op.operands[i].type) for i in varying):
            micro.add(op)


class _Results:
    """What becomes of the results of @main that depend on the batch."""

    def __init__(self, func: FuncOp, flow: BatchFlow, cut: Cut, stated: Mapping[int, int]) -> None:
        self._func = func
        self._stated = stated
        self._flow = flow
        self._micro = cut.micro
        self.examples = Examples(func.body.block, flow)

    def place_of(self, index: int, value: SSAValue) -> BatchPlace | None:
        """Where a result holds the batch; None: it is averaged, or made of averages.

        DiagnosticError where it is neither computed example by example nor a gradient, a float
        scalar or an updated state.
        """
        if self._flow.is_per_example(value):
            place = self.examples.place_of(value)
            if place is None:
                why = "mixes examples of the batch, or holds a part of them"
                if self._flow.sizes == {1}:
                    why = "cannot be followed with one example a microbatch (take fewer of them)"
                raise self._refusal(index, value, why)
            return place
        type = value.type
        if index in self._stated:
            return None
        if not is_tensor(type) or isinstance(element_type(type), IntegerType):
            if is_made_in(value, self._micro):
                raise self._refusal(
                    index,
                    value,
                    "depends on the batch but has no batch dimension and is no float",
                )
        elif shape_of(type):
            if self._is_statistic(value):
                raise self._refusal(
                    index,
                    value,
                    "depends on the batch but has no batch dimension and is neither a scalar nor a "
                    "gradient nor an updated argument",
                )
        elif (kind := no_mean(value, self._flow)) is not None:
            raise self._refusal(index, value, f"is {kind}, which is no mean")
        return None

    def _refusal(self, index: int, value: SSAValue, why: str) -> DiagnosticError:
        return DiagnosticError(
            value.owner if isinstance(value.owner, Operation) else self._func,
            f"result {index}{result_path(self._func, index)} ({value.type}) {why}: it cannot be "
            "put together from microbatches; return a float scalar (it is averaged), a value an "
            "example, or state at the place of its argument, or compute it outside the step",
        )

    def _is_statistic(self, value: SSAValue) -> bool:
        """Whether a value is made of the batch alone, in the forward phase or after it: no
        gradient, and no argument that is updated with it."""
        found = False
        seen: set[SSAValue] = {value}
        stack = [value]
        while stack:
            current = stack.pop()
            if not isinstance(current.owner, Operation):
                if shape_of(current.type):
                    return False
                continue
            if is_made_in(current, self._micro):
                if not self._flow.depends(current):
                    continue
                if is_gradient(current, self._flow, of_examples=True):
                    return False
                found |= bool(shape_of(current.type))
                continue
            for other in inputs_of(current.owner):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return found


def stated_arguments(func: FuncOp) -> dict[int, int] | None:
    """For each result the argument that states it as its next value (`autopar.next`); None where no
    argument states anything."""
    entries = entries_of(func.arg_attrs, len(func.body.block.args))
    said = {index: entry.data.get(NEXT) for index, entry in enumerate(entries)}
    found = {a: r.value.data for a, r in said.items() if isinstance(r, IntegerAttr)}
    return {r: a for a, r in found.items() if r >= 0} if found else None


def result_path(func: FuncOp, index: int) -> str:
    """What JAX calls a result, ` at [1]['loss']`; empty where it says nothing."""
    entry = entries_of(func.res_attrs, len(func.function_type.outputs))[index]
    info = entry.data.get("jax.result_info")
    path = info.data.removeprefix("result") if isinstance(info, StringAttr) else ""
    return f" at {path}" if path else ""


def is_made_in(value: SSAValue, ops: set[Operation]) -> bool:
    """Whether one of `ops` makes the value."""
    return isinstance(value.owner, Operation) and value.owner in ops
