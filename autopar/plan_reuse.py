"""A plan as a method: a program laid out as was decided before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .decisions import Decisions, StalePlanError
from .methods import Method

if TYPE_CHECKING:
    from autopar.passes.importing.methods import MethodOptions

    from .plans import Plan


@dataclass(frozen=True)
class ReusedPlan(Method):
    """What `parallelize(method=plan)` makes of a plan: its method, its choices, no search.

    StalePlanError where program, arguments or mesh are others: when the program is compiled, or
    its plan is asked for (`.lower(…).plan`).
    """

    name = "plan"

    plan: Plan | None = field(default=None, repr=False)

    @staticmethod
    def of(plan: Plan) -> ReusedPlan:
        """The method of a plan. ValueError for one without decisions."""
        if plan.decisions is None or plan.options is None:
            raise ValueError("the plan does not say what was decided for the ops of its program")
        return ReusedPlan(plan.mesh, plan.num_micro_batches, plan.reduction, plan=plan)

    def __post_init__(self) -> None:
        self._check()

    @property
    def follows(self) -> bool:
        return self._plan.method == "shard"

    @property
    def splits_batch(self) -> bool:
        return self._plan.method not in ("auto", "shard")

    def annotation(self, mesh: Any) -> MethodOptions:
        options = self._plan.options
        assert options is not None
        return options

    def decisions(self, mesh: Any) -> Decisions:
        plan = self._plan
        axes = tuple(zip(map(str, mesh.axis_names), mesh.devices.shape, strict=True))
        if axes != plan.grid.axes:
            raise StalePlanError(
                f"the mesh is {_said(axes)}, the plan is for {_said(plan.grid.axes)}"
            )
        assert plan.decisions is not None
        return plan.decisions

    @property
    def _plan(self) -> Plan:
        assert self.plan is not None
        return self.plan


def _said(axes: tuple[tuple[str, int], ...]) -> str:
    return " x ".join(f"{name}={size}" for name, size in axes)
