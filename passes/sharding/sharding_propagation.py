"""Pass `sharding-propagation`."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from autopar.dialects.autopar import refuse_partitioned

from .propagation import propagate_shardings


@dataclass(frozen=True)
class ShardingPropagationPass(ModulePass):
    """Spreads the user's shardings over the program.

    Needs: a `shard.grid`; shardings on arguments, results, ops or constraints (import-sdy).
    Guarantees: every tensor value has a closed sharding; constants whose uses want different
    shardings are copied. Shardy's semantics (docs/propagation.md lists the differences).
    """

    name = "sharding-propagation"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_partitioned(op, self.name)
        propagate_shardings(op)
