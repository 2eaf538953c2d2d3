"""Pass `insert-reshards`: from annotated to decided programs (L1 to L1')."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from autopar.dialects.autopar import refuse_partitioned

from .decide import insert_reshards


@dataclass(frozen=True)
class InsertReshardsPass(ModulePass):
    """Give every op its strategy and make every resharding explicit.

    Needs: shardings on values (import-sdy, sharding-propagation); a value without one is
    replicated, with a remark where it is an op's and others have theirs: run sharding-propagation
    behind a pass that inserts ops. An op's own `autopar.strategy` is kept; absent, the cheapest one
    is derived.

    Guarantees: each op carries the sharding of its results and, where it has a sharding rule,
    its strategy; operands lie as the strategy needs them, `autopar.reshard` standing wherever
    they did not, resolutions of partial results included; no `autopar.constraint` is left;
    the grid is refined so that every sub-axis is an axis (the user's is kept as
    `autopar.grid`). Partial sums are carried through linear ops and loop carries and resolved once.
    """

    name = "insert-reshards"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_partitioned(op, self.name)
        insert_reshards(op)
