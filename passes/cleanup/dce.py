"""dce: dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import would_be_trivially_dead

from autopar.passes.walk import SHARDED_BODIES


@dataclass(frozen=True)
class DcePass(ModulePass):
    """Removes operations without effects whose results nobody uses.

    Needs: nothing. Guarantees: the same meaning; functions stay.
    """

    name = "dce"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        drop_dead(op)


def drop_dead(op: Operation) -> None:
    """Removes dead ops inside `op` in one backward sweep of each block (a chain of dead ops dies
    from its end). Linear, unlike xDSL's own pass, which works through a list until nothing changes.
    """
    for region in op.regions:
        for block in region.blocks:
            inner = block.last_op
            while inner is not None:
                before = inner._prev_op  # pyright: ignore[reportPrivateUsage]
                for result in inner.results:
                    if result.first_use is not None:
                        is_dead = False
                        break
                else:
                    is_dead = would_be_trivially_dead(inner)
                if is_dead:
                    inner.detach()
                    inner.erase(safe_erase=False)
                elif inner.regions and inner.name in SHARDED_BODIES:
                    drop_dead(inner)
                inner = before
