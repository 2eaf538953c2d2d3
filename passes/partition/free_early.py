"""Pass `free-early`: what frees memory runs as soon as it can."""

from __future__ import annotations

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block
from xdsl.passes import ModulePass

from autopar.dialects.autopar import FREE_EARLY, refuse_unpartitioned
from autopar.dialects.stablehlo import OptimizationBarrierOp
from autopar.passes.cost.early import Wait, blocks_of, waits_of
from autopar.passes.cost.fusion import Fusions
from autopar.passes.cost.merging import makers_of, units_of
from autopar.passes.entry import main_function
from autopar.passes.walk import post_order


class FreeEarlyPass(ModulePass):
    """Let ops wait for others that free memory, in a program that is marked `autopar.free_early`.

    Needs: a partitioned module (after optimize-collectives). Guarantees: the same values; gradients
    of weights, which XLA would compute at the end of a step, are computed as soon as what they read
    is there, if that lets go of more bytes than it takes: an op that runs next takes one of its
    operands from a barrier behind which they stand. auto-shard sets the mark where no plan fits
    otherwise.
    """

    name = "free-early"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_unpartitioned(op, self.name)
        free_early(main_function(op), Fusions())


def free_early(func: FuncOp, fusions: Fusions) -> None:
    """The same for a function, whose blocks have these fusions; they have those of the blocks as
    they are behind it then."""
    if func.attributes.pop(FREE_EARLY, None) is None:
        return
    for block in reversed(blocks_of(func)):  # bodies first, which ops of other blocks read through
        waits = waits_of(fusions(block))
        for wait in waits:
            _hold(wait, block)
        if waits:
            _sort(block)
            fusions.add_barriers(block)


def _hold(wait: Wait, block: Block) -> None:
    """Puts a barrier behind the values and in front of the op, wherever in the block."""
    held = [wait.op.operands[wait.operand], *wait.values]
    barrier = OptimizationBarrierOp.create(
        operands=held, result_types=[value.type for value in held], location=wait.op.location
    )
    for value, new in zip(held[1:], barrier.results[1:], strict=True):
        value.replace_uses_with_if(new, lambda use: use.operation is not barrier)
    wait.op.operands[wait.operand] = barrier.results[0]
    block.insert_op_before(barrier, wait.op)


def _sort(block: Block) -> None:
    """Puts what an op of a block reads in front of it, where it is not, and otherwise leaves their
    order; collectives that are lowered as one stay together."""
    units = units_of(list(block.ops))
    makers = (set(found) - {number} for number, found in enumerate(makers_of(units)))
    needs = [sorted(found) for found in makers]
    order = post_order(range(len(units)), needs.__getitem__, set())
    turn = {number: turn for turn, number in enumerate(order)}
    for number, found in enumerate(needs):
        assert all(turn[maker] < turn[number] for maker in found), "an op waits for its own reader"
    for op in list(block.ops):
        op.detach()
    for number in order:
        block.add_ops(units[number])
