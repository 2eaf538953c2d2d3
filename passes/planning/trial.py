"""A plan held against its partitioned program."""

from __future__ import annotations

from functools import cached_property

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.diagnostics import collect_remarks
from autopar.passes.cost.fusion import Fusions
from autopar.passes.cost.liveness import Memory, memory_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price, price_of
from autopar.passes.cost.report import CollectiveUse, collectives_of
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.free_early import FreeEarlyPass, free_early
from autopar.passes.pipelines import DECIDE, PARTITION

from .modelled import StepSeconds


class Trial:
    """What a plan comes to: one device of the partitioned program.

    `module` is a copy of the program whose plan is written; it is partitioned.
    """

    def __init__(self, module: ModuleOp, context: Context, prices: CostModel) -> None:
        self.module = module
        self._prices = prices
        self._fusions = Fusions()
        *passes, last = (*DECIDE, *PARTITION)
        assert last == FreeEarlyPass.name
        with collect_remarks():  # those of the real partition tell the user
            run_passes(module, passes, context)
            free_early(main_function(module), self._fusions)  # which it has found then

    @cached_property
    def memory(self) -> Memory:
        """Of one device."""
        return memory_of(self.module, self._fusions)

    @cached_property
    def price(self) -> Price:
        """Seconds of one step."""
        return price_of(self.module, self._prices, self._fusions)

    @property
    def seconds(self) -> StepSeconds:
        """The same, as far as it is modelled."""
        return StepSeconds.of(self.price, self._prices)

    @cached_property
    def collectives(self) -> list[CollectiveUse]:
        """All that it has."""
        return list(collectives_of(self.module))
