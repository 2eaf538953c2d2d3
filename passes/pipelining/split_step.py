"""Pass `split-step`: a training step as microbatches and one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from .microbatches import check_split, split_step


@dataclass(frozen=True)
class SplitStepPass(ModulePass):
    """Run the forward and backward part of a step once a microbatch, the update part once.

    Needs: @main of ONE microbatch, calls inlined (inline), and arguments marked
    `autopar.kind = "batch"` (`autopar.batch_dim`, 0 where absent). The cut is found by data flow:
    what has a batch dimension, or is needed by such, is the microbatch part; what only reads values
    reduced over the batch (gradients, losses) is the update part. Name stacks that JAX leaves in
    locations are read for three questions: whether a state is written by the forward part, whether
    a value is a gradient, and whether what is made of gradients meets the batch again. Of state
    `autopar.next` tells; where no argument has it, `tf.aliasing_output` stands for it but for
    scalars, and nothing tells what comes of the batch's size (`autopar.whole_batch`,
    `autopar.batch_dims`): all floats are averaged then.

    Guarantees: @main takes the batch of `num-micro-batches` microbatches: gradients and float
    scalars are averaged over them (`reduction=sum`: summed), results that are computed example by
    example put together in the order of the examples, and state that the forward part writes handed
    from one microbatch to the next. What else the update reads is what the whole batch gives: sums
    over it, means, extremes, its size. Any other result that depends on the batch is an error that
    names it, and so is, at the op, a second pass over the batch, with what its gradients were
    turned into, and what the update reads of statistics of statistics.
    """

    name = "split-step"

    num_micro_batches: int = 1
    """Into how many parts the batch is split."""
    reduction: Literal["mean", "sum"] = "mean"
    """How gradients and float scalars of microbatches are put together."""

    def __post_init__(self) -> None:
        check_split(self.num_micro_batches, self.reduction)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        split_step(op, self.num_micro_batches, self.reduction)
