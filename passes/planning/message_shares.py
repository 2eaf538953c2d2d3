"""What collectives that wait for others pay of a message that they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.optimize_collectives import OptimizeCollectivesPass
from autopar.passes.partition.specs import AxisTable, Spec

from .demands import Demands
from .reshard_prices import Floats, ReshardPrices

_LARGEST = OptimizeCollectivesPass.small_bytes
_MEETS = 2 * _LARGEST
"""The bytes that a small one meets of its kind and axes, as others choose: fewer than a group may
have. Where it is taken for more, plans come to be of many kinds, each with a message of its own."""


class SharedMessages(ReshardPrices):
    """Prices of reshardings some of which run as one (`passes/partition/combining.py`).

    Which ones these are hangs on the choices of all. A small one is taken to meet the others that
    wait, up to some bytes, and pays its share by size.
    """

    def __init__(self, table: AxisTable, prices: CostModel, demands: Demands) -> None:
        super().__init__(table, prices, demands)
        self._waiting = 0

    def wait(self, num_bytes: int) -> None:
        """Notes a value whose collectives wait, if they are small."""
        if num_bytes <= _LARGEST:
            self._waiting += num_bytes

    def share(self, num_bytes: int) -> float:
        """Of a message, for the sum of a value that waits."""
        return min(1.0, num_bytes / max(1, self._waiting))

    def seconds(
        self,
        sources: Sequence[Spec],
        targets: Sequence[Spec],
        shape: Sequence[int],
        num_bytes: int,
        *,
        combined: bool = False,
    ) -> Floats:
        """As `ReshardPrices.seconds`; `combined`: by collectives that wait for others."""
        if not combined:
            return super().seconds(sources, targets, shape, num_bytes)
        messages, per_byte, buffers = self._of(tuple(sources), tuple(targets), shape)
        sizes = buffers * num_bytes
        shares = np.minimum(1.0, sizes / min(_MEETS, max(1, self._waiting)))
        messages = messages * np.where(sizes <= _LARGEST, shares, 1.0)
        return messages.sum(axis=0) + per_byte.sum(axis=0) * num_bytes
