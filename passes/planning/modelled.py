"""What a partitioned program comes to by the cost model, in figures and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from xdsl.dialects.builtin import ModuleOp

from autopar.passes.cost.fusion import Fusions
from autopar.passes.cost.liveness import memory_of
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price, price_of

from .words import milliseconds, size_text

_REDUCES = ("all_reduce", "reduce_scatter")


@dataclass(frozen=True)
class StepSeconds:
    """Of one step on one device."""

    compute_s: float | None
    """As `Price.compute`; None where the objective is communication alone."""
    memory_s: float | None
    """Of the traffic with memory of all else; None as above."""
    communication_s: float
    reshard_s: float
    """The part of `communication_s` that moves values from one layout to another: all but the
    reduction of partial sums."""

    @staticmethod
    def of(price: Price, prices: CostModel) -> StepSeconds:
        """Of what `prices` give."""
        moving = sum(s for (kind, _), s in price.communication.items() if kind not in _REDUCES)
        if prices.objective == "communication":
            return StepSeconds(None, None, price.communication_total, moving)
        return StepSeconds(price.compute, price.memory, price.communication_total, moving)

    @property
    def total_s(self) -> float:
        """What a plan is judged by."""
        return (self.compute_s or 0.0) + (self.memory_s or 0.0) + self.communication_s

    def as_json(self) -> dict[str, float | None]:
        return {"total_s": self.total_s, **asdict(self)}

    def __str__(self) -> str:
        communication = (
            f"communication {milliseconds(self.communication_s)} "
            f"(resharding {milliseconds(self.reshard_s)})"
        )
        if self.compute_s is None or self.memory_s is None:
            return f"{communication}; compute and memory traffic are not modelled"
        return (
            f"step {milliseconds(self.total_s)}: compute {milliseconds(self.compute_s)}, memory "
            f"traffic {milliseconds(self.memory_s)}, {communication}"
        )


@dataclass(frozen=True)
class Modelled:
    """A step of a plan."""

    seconds: StepSeconds
    peak_bytes: int
    """Of one device."""
    limit_bytes: int | None = None

    def lines(self) -> list[str]:
        """For people."""
        return [str(self.seconds), memory_text(self.peak_bytes, self.limit_bytes)]


def modelled(module: ModuleOp, prices: CostModel, limit: int | None) -> Modelled:
    """Of a partitioned module."""
    fusions = Fusions()
    peak = memory_of(module, fusions).peak
    return Modelled(StepSeconds.of(price_of(module, prices, fusions), prices), peak, limit)


def memory_text(peak: int, limit: int | None) -> str:
    """What a device needs, and what it has."""
    return f"memory {size_text(peak)} a device" + (f" of {size_text(limit)}" if limit else "")
