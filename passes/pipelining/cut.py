"""Where a step is cut into the part that runs once a microbatch and the update, by data flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from xdsl.dialects.builtin import IntegerType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import aliases
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import element_type, is_tensor, num_bytes
from autopar.passes.importing.phases import phase_of

from .batch_flow import BatchFlow, inputs_of


@dataclass
class Cut:
    """Where a step is cut."""

    micro: set[Operation]
    """Top-level ops that run once a microbatch."""
    reduced: list[SSAValue] = field(default_factory=list[SSAValue])
    """Values that cross to the update part, to be averaged."""
    examples: list[tuple[SSAValue, int]] = field(default_factory=list[tuple[SSAValue, int]])
    """Results with a batch dimension."""
    carried: list[tuple[int, SSAValue]] = field(default_factory=list[tuple[int, SSAValue]])
    """(argument index, value): state that the forward part writes."""


def find_cut(func: FuncOp, flow: BatchFlow) -> Cut:
    """Cuts the step by data flow."""
    block = func.body.block
    terminator = block.last_op
    assert terminator is not None
    carried = _forward_state(func, flow)
    seeds = [op for op in block.ops if op is not terminator and _touches_examples(op, flow)]
    seeds += [v.owner for _, v in carried if isinstance(v.owner, Operation)]
    micro = _needed_by(seeds, block)
    _take_gradient_ops(micro, block, flow)
    _take_linear_followers(micro, block, flow)
    cut = Cut(micro, carried=carried)
    written = {value for _, value in carried}
    crossing: dict[SSAValue, None] = {}
    for op in block.ops:
        if op in micro:
            continue
        if op is not terminator:
            for value in inputs_of(op):
                if is_made_in(value, micro) and flow.depends(value):
                    crossing[value] = None
            continue
        for index, value in enumerate(op.operands):
            if not is_made_in(value, micro) or not flow.depends(value):
                continue
            if value in written:
                pass
            elif flow.is_per_example(value):
                cut.examples.append((value, min(flow.dims[value])))
            else:
                _check_result(func, index, value)
                crossing[value] = None
    cut.reduced = list(crossing)
    return cut


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


def _forward_state(func: FuncOp, flow: BatchFlow) -> list[tuple[int, SSAValue]]:
    """State that the forward part writes (running statistics of a normalisation): a result that
    depends on the batch, made in the forward phase, whose argument shares its buffer or is the only
    one that it was computed from element by element."""
    terminator = func.body.block.last_op
    assert terminator is not None
    argument_of = {result: argument for argument, result in aliases(func)}
    found: list[tuple[int, SSAValue]] = []
    for result, value in enumerate(terminator.operands):
        if (
            not isinstance(value.owner, Operation)
            or not flow.depends(value)
            or flow.is_per_example(value)
            or phase_of(value.owner) != "forward"
        ):
            continue
        argument = argument_of.get(result)
        if argument is None:
            argument = _updated_argument(value)
        if argument is not None:
            found.append((argument, value))
    return found


def _updated_argument(value: SSAValue) -> int | None:
    """The one argument of @main of the value's type that it is computed from elementwise."""
    arguments: set[int] = set()
    seen: set[SSAValue] = set()
    stack: list[SSAValue] = [value]
    while stack:
        current = stack.pop()
        if current in seen or current.type != value.type:
            continue
        seen.add(current)
        if isinstance(current, BlockArgument):
            arguments.add(current.index)
        elif isinstance(current.owner, Operation):
            operands = current.owner.operands
            stack += operands if all(v.type == value.type for v in operands) else ()
    return arguments.pop() if len(arguments) == 1 else None


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
            phase_of(op) != "update"
            or any(use.operation in examples for v in varying for use in v.uses)
        ):
            micro |= _needed_by([op], block)


def _needed_by(seeds: Sequence[Operation], block: Block) -> set[Operation]:
    """The seeds and every op of the block that they need."""
    needed: set[Operation] = set()
    stack = list(seeds)
    while stack:
        op = stack.pop()
        if op in needed:
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
    leaves fewer bytes to accumulate (the sum of a tied weight's gradients)."""
    for op in block.ops:
        if op in micro or len(op.results) != 1 or not flow.depends(op.results[0]):
            continue
        varying = [i for i, v in enumerate(op.operands) if flow.depends(v)]
        if not all(is_made_in(op.operands[i], micro) for i in varying):
            continue
        if any(not op.operands[i].has_one_use() for i in varying):
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


def _check_result(func: FuncOp, index: int, value: SSAValue) -> None:
    type = value.type
    if is_tensor(type) and not isinstance(element_type(type), IntegerType):
        return
    raise DiagnosticError(
        value.owner if isinstance(value.owner, Operation) else func,
        f"result {index} ({type}) depends on the batch but has no batch dimension and is no float: "
        "it cannot be put together from microbatches; return a float (it is averaged), a value a "
        "example, or compute it outside the step",
    )


def is_made_in(value: SSAValue, ops: set[Operation]) -> bool:
    """Whether one of `ops` makes the value."""
    return isinstance(value.owner, Operation) and value.owner in ops
