"""What plan, explain and view are given: a module to be planned, or what was planned before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from .decisions import Recorder
from .dialects import make_context
from .lowering.parse import parse_module
from .passes.importing.shard_ops_to_attributes import ShardOpsToAttributesPass
from .passes.manager import PassSpec, build_pass, parse_options
from .passes.pipelines import IMPORT
from .passes.planning.auto_shard import AutoShardPass, Terms
from .passes.planning.planner import Planned
from .passes.progress import tell
from .reading import read_input, transform, unforeseen
from .terminal import UsageError

if TYPE_CHECKING:
    from .plans import Plan


@dataclass(frozen=True)
class Source:
    """A file, or standard input, that has been read: it may be read once only."""

    name: str
    text: str

    @property
    def is_json(self) -> bool:
        """Whether it is a plan or a report, and no module."""
        return self.text.lstrip().startswith("{")

    def as_plan(self) -> Plan:
        """The plan that it is. UsageError says why it is none."""
        from .plan_files import plan_of_text

        try:
            return plan_of_text(self.text, self.name)
        except ValueError as error:
            raise UsageError(str(error)) from None


def read_source(name: str, options: str | None) -> Source:
    """Reads a file. UsageError where it cannot be read, and where there are `options` of auto-shard
    for what is planned already."""
    source = Source(name, read_input(name))
    if source.is_json and options is not None:
        raise UsageError(f"{name} is planned already: --auto-shard is for a module")
    return source


def planner_of(options: str) -> AutoShardPass:
    """The pass with options as autopar-opt takes them. PipelineError names a wrong one."""
    made = build_pass(PassSpec(AutoShardPass.name, parse_options(options)))
    assert isinstance(made, AutoShardPass)
    return made


def imported(source: Source) -> tuple[ModuleOp, Context]:
    """The module as planning takes it: our own shardings, no calls, no dead code, and nothing
    computed twice (as XLA has it, and `parallelize`)."""
    context = make_context()
    module = parse_module(source.text, source.name, context)
    passes = (*IMPORT, "cse", ShardOpsToAttributesPass.name)
    transform(module, [build_pass(PassSpec(name)) for name in passes], context)
    return module, context


def plan_module(
    planner: AutoShardPass, module: ModuleOp, context: Context, recorder: Recorder | None = None
) -> tuple[Planned, Terms]:
    """Plans an imported module in place; a recorder sees it before and after."""
    tell("planning")
    with unforeseen(module, "planning"):
        if recorder is not None:
            recorder.before(module)
        planned, terms = planner.plan(context, module)
        if recorder is not None:
            recorder.after(module, searched=True)
    return planned, terms
