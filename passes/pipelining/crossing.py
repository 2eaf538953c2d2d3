"""How a value that goes from the microbatch part to the update is put together from microbatches.

An extreme over the batch (or a logical all, any) is the extreme over the microbatches: exact.
Floats that are sums over the batch, or made of such, are averaged: what the update makes of them (a
mean, a quotient of two sums) is then what it makes of the whole batch; gradients are averaged by
what microbatches mean. An integer has no average: it is refused, unless all that reads it makes it
a float, which is then averaged.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.tensors import element_type, is_tensor

from .batch_flow import BatchFlow

Combination = str
"""A kind of reduction (dialects/reductions.py), or `average`."""
AVERAGE = "average"
_CHOICE = "choice"
_WORDS = {
    "max": "the maximum over the batch",
    "min": "the minimum over the batch",
    "product": "the product over the batch",
    _CHOICE: "a choice from the batch",
}


def lost_by(op: Operation, flow: BatchFlow) -> str | None:
    """The kind of reduction by which an op makes one of examples that its results do not hold;
    `choice` where it is none; None where the op loses none.
    """
    rule = get_rule(op)
    if rule is None:
        return None
    found: str | None = None
    for operand, mapping in zip(op.operands, rule.operands, strict=True):
        for place in flow.places.get(operand, ()):
            if op.name == "stablehlo.reshape":  # drops a batch of one, or what was chosen before
                return None if place.size in flow.sizes else _CHOICE
            for factor in mapping[place.dim]:
                if rule.factor_sizes[factor] > 1:
                    # split, a gather is a sum of what each device has; of examples it is a choice
                    gathers = op.name == "stablehlo.gather"
                    kind = None if gathers else rule.reducers[factor]
                    found = found or kind or _CHOICE
    return found


def no_mean(value: SSAValue, flow: BatchFlow) -> str | None:
    """Of what a value that is made of the batch is made, where this is no sum: as `the maximum over
    the batch`.

    The examples come together in sums; gradients are means by what they are.
    """
    seen: set[SSAValue] = {value}
    stack = [value]
    while stack:
        op = stack.pop().owner
        if not isinstance(op, Operation) or flow.phases.of(op) == "backward":
            continue
        if any(map(flow.is_per_example, op.operands)):
            kind = lost_by(op, flow)
            if kind not in (None, "sum"):
                return _WORDS.get(kind, f"a {kind} over the batch")
            continue
        for other in op.operands:
            if flow.depends(other) and other not in seen:
                seen.add(other)
                stack.append(other)
    return None


def combination(value: SSAValue, flow: BatchFlow, reduction: Literal["mean", "sum"]) -> Combination:
    """How a crossing value is put together; DiagnosticError where it cannot be."""
    op = value.owner
    assert isinstance(op, Operation)
    own = lost_by(op, flow) if any(map(flow.is_per_example, op.operands)) else None
    if own == _CHOICE:
        raise DiagnosticError(
            op,
            f"'{op.name}' makes a choice from the batch, which the update reads: microbatches do "
            "not tell what the whole batch gives; make it inside the loss function, or outside "
            "the step",
        )
    if own is not None and own != "sum":
        return own
    is_whole = not is_tensor(value.type) or isinstance(element_type(value.type), IntegerType)
    if not is_whole:
        if own is None and (made_of := no_mean(value, flow)) is not None:
            raise DiagnosticError(
                op,
                f"'{op.name}' makes what the update reads of {made_of}, for single microbatches: "
                "their average is not what the whole batch gives; let the update make it, or "
                "return it from the loss function as state",
            )
        return AVERAGE
    if own == "sum" and reduction == "sum":
        return "sum"
    raise DiagnosticError(
        op,
        f"'{op.name}' makes an integer ({value.type}) of the batch, which the update reads: "
        "microbatches are averaged, and integers have no average; make it a float where it is "
        "summed up, `.sum(dtype=jnp.float32)`, or inside the loss function",
    )


def take_conversions(crossing: Collection[SSAValue], micro: set[Operation], block: Block) -> bool:
    """Moves conversions of integers to floats into the microbatch part, where nothing else reads
    the integer outside of it; whether there were any."""
    taken = False
    for value in crossing:
        if not isinstance(element_type(value.type), IntegerType):
            continue
        users = {block.find_ancestor_op_in_block(use.operation) for use in value.uses} - micro
        if users and all(
            user is not None
            and user.name == "stablehlo.convert"
            and not isinstance(element_type(user.results[0].type), IntegerType)
            for user in users
        ):
            micro.update(user for user in users if user is not None)
            taken = True
    return taken


def is_counted(value: SSAValue, argument: SSAValue, flow: BatchFlow) -> bool:
    """Whether a result is the argument plus a sum over the batch, of no gradient: a counter, which
    each microbatch adds its own sum to."""
    op = value.owner
    if not isinstance(op, Operation) or op.name != "stablehlo.add":
        return False
    one, two = op.operands
    other = two if one is argument else one if two is argument else None
    while other is not None and isinstance(other.owner, Operation):
        source = other.owner
        if flow.phases.of(source) == "backward" or not flow.depends(other):
            return False
        if any(map(flow.is_per_example, source.operands)):
            return lost_by(source, flow) == "sum"
        if source.name not in ("stablehlo.convert", "stablehlo.reshape"):
            return False
        other = source.operands[0]
    return False
