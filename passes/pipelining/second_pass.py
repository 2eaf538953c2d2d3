"""Steps that compute on the batch again with what their gradients were turned into.

The loss after the update, a discriminator's update before the generator's gradient, two updates in
a step: the gradients of the whole batch have to be there before the batch is met again, so one
loop over microbatches cannot compute it. By data flow alone this looks like a normalisation, whose
statistics of a microbatch go back into the microbatch; the phases that JAX's name stacks tell are
what sets them apart: backward values go on to ops of another phase. Inside the model, where all is
differentiated again (the inner step of MAML), a microbatch is free to see its own examples only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xdsl.ir import Block, Operation, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.regions import MANUAL

from .batch_flow import BatchFlow, inputs_of

_GRADIENT, _UPDATED = 1, 2


def refuse_second_pass(block: Block, flow: BatchFlow) -> None:
    """DiagnosticError at an op that computes on examples with what comes of reduced gradients."""
    _Follower(flow).visit(block)


class _Follower:
    def __init__(self, flow: BatchFlow) -> None:
        self._flow = flow
        self._state: dict[SSAValue, int] = {}
        """Values that depend on the batch without holding it: gradients, and what ops outside the
        backward phase made of them."""

    def visit(self, block: Block) -> None:
        """Follows the values of a block, in program order."""
        for op in block.ops:
            if op.name == "stablehlo.while":
                self._loop(op)
            elif op.name in ("stablehlo.case", "stablehlo.if"):
                self._branches(op)
            elif op.name == MANUAL:
                (region,) = op.regions
                self._join(region.block.args, op.operands)
                self.visit(region.block)
                self._join(op.results, _handed_on(region.block))
            elif op.name == "stablehlo.optimization_barrier":
                self._join(op.results, op.operands)
            elif op.results:  # what hands values on is followed by those that hold it
                self._op(op)

    def _op(self, op: Operation) -> None:
        inputs = list(inputs_of(op))
        state = max((self._state.get(value, 0) for value in inputs), default=0)
        examples = any(map(self._flow.is_per_example, (*inputs, *op.results)))
        is_backward = bool(state) and self._flow.phases.outermost(op) == "backward"
        if examples and (state == _UPDATED or (state == _GRADIENT and not is_backward)):
            raise DiagnosticError(
                op,
                f"'{op.name}' computes on the batch with what the gradients of the whole batch "
                "were turned into (a loss after the update, a second update): it cannot run "
                "microbatch by microbatch; take num_micro_batches=1, or make it a step of its own",
            )
        for result in op.results:
            if self._flow.depends(result) and not self._flow.is_per_example(result):
                if state == _GRADIENT:
                    self._raise(result, _GRADIENT if is_backward else _UPDATED)
                elif state == _UPDATED or self._flow.phases.outermost(op) == "backward":
                    self._raise(result, state or _GRADIENT)

    def _loop(self, op: Operation) -> None:
        self._join(op.results, op.operands)
        condition, body = (region.block for region in op.regions)
        while True:
            self._join(body.args, op.results)
            self._join(condition.args, op.results)
            self.visit(condition)
            self.visit(body)
            if not self._join(op.results, _handed_on(body)):
                return

    def _branches(self, op: Operation) -> None:
        for region in op.regions:
            self.visit(region.block)
            self._join(op.results, _handed_on(region.block))

    def _join(self, targets: Iterable[SSAValue], sources: Iterable[SSAValue]) -> bool:
        """Lets each target be at least what its source is; whether that is news."""
        return any(
            [
                self._raise(target, self._state.get(source, 0))
                for target, source in zip(targets, sources, strict=True)
            ]
        )

    def _raise(self, value: SSAValue, state: int) -> bool:
        if state <= self._state.get(value, 0):
            return False
        self._state[value] = state
        return True


def _handed_on(block: Block) -> Sequence[SSAValue]:
    last = block.last_op
    assert last is not None
    return last.operands
