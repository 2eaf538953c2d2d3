"""What was decided for a program, op by op: to be read off, kept in a file, and written again.

A program is recognised by its operations once calls are inlined (`Fingerprint`); where things lie
at its boundary is told apart, so that the same function may be planned in several ways.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, UnitAttr, i64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError

from autopar.dialects import make_context
from autopar.dialects.autopar import (
    AGAIN,
    ALIASING_OUTPUT,
    BATCH_DIM,
    FREE_EARLY,
    KIND,
    SHARDING,
    STRATEGY,
    ShardingAttr,
    StrategyAttr,
    entries_of,
    forbid_collectives,
    forbidden_collectives,
    set_arg_shardings,
    set_result_shardings,
    set_sharding,
    sharding_of,
)
from autopar.dialects.autopar import (
    arg_shardings as shardings_of_arguments,
)
from autopar.dialects.autopar import (
    result_shardings as shardings_of_results,
)
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.regions import MANUAL
from autopar.dialects.shard import GridOp
from autopar.dialects.sharding import Sharding
from autopar.passes.entry import main_function
from autopar.passes.planning.places import planned_ops
from autopar.passes.sharding.propagation import propagate_shardings
from autopar.passes.sharding.propagation.classes import ConstantFinder
from autopar.passes.walk import inner_ops


class StalePlanError(ValueError):
    """A plan was made for another program, other arguments or another mesh; the text says which."""


def _of_another_program(what: str) -> StalePlanError:
    return StalePlanError(
        f"the plan is of another program: {what}; where it is of `autopar plan`, make it from "
        "Python: autopar.plan(...), and Plan.save for a file"
    )


@dataclass(frozen=True)
class DecidedOp:
    """One op and where its results lie."""

    op: str
    """Its name; of a custom_call with the target."""
    types: tuple[str, ...]
    """Of its results, global."""
    shardings: tuple[str | None, ...]
    """Of its results, as `#autopar.sharding` has them; None: nobody's choice (constants)."""
    strategy: str | None
    """The grid axes of each factor of its rule, as `#autopar.strategy` has them."""
    number: int | None
    """Its place among the ops of the imported program; None where the method added it."""
    again: tuple[int, ...] = ()
    """The operands that are brought to it once more, as `autopar.again` has them."""


@dataclass(frozen=True)
class Decisions:
    """All of a program."""

    program: str
    """A hash of the operations."""
    inputs: tuple[str, ...]
    """The types of the arguments, of one microbatch where there are several."""
    searched: bool
    """Whether a search made them: then they are written, not found anew."""
    demands: tuple[str, ...]
    """What is known of every argument and result before anything is decided."""
    arguments: tuple[str | None, ...]
    results: tuple[str | None, ...]
    ops: tuple[DecidedOp, ...]
    free_early: bool = False
    """Whether what frees memory is to run early (the pass `free-early`)."""
    without: tuple[str, ...] = ()
    """The collectives that it may not use."""

    def check_program(self, module: ModuleOp) -> None:
        """StalePlanError where an imported module has not the operations that were planned."""
        if fingerprint(module) == self.program:
            return
        func = main_function(module)
        for index, (old, new) in enumerate(zip(self.inputs, _inputs(func), strict=False)):
            if old != new:
                raise _of_another_program(f"argument {index} is {new}, in the plan {old}")
        planned = [op for op in self.ops if op.number is not None]
        found = [(_label(op), _types(op)) for op in planned_ops(func)]
        for index, (old, (name, types)) in enumerate(zip(planned, found, strict=False)):
            if old.number == index and (old.op, old.types) != (name, types):
                raise _of_another_program(
                    f"operation {index} is {_said(name, types)}, "
                    f"in the plan {_said(old.op, old.types)}"
                )
        if planned and len(found) != (planned[-1].number or 0) + 1:
            count = (planned[-1].number or 0) + 1
            raise _of_another_program(f"it has {len(found)} operations, the plan {count}")
        raise _of_another_program(
            "the same operations, with other constants, attributes or operands"
        )

    def check_boundary(self, module: ModuleOp) -> None:
        """StalePlanError where arguments or results are other than planned."""
        found = _demands(main_function(module))
        for old, new in zip(self.demands, found, strict=False):
            if old != new:
                raise StalePlanError(f"the plan is stale: {_difference(old, new)}")
        if len(found) != len(self.demands):
            raise StalePlanError(
                f"the plan is stale: {len(found)} arguments and results, in the plan "
                f"{len(self.demands)}"
            )

    def write(self, module: ModuleOp) -> None:
        """Writes shardings and strategies onto a module that the checks let pass, in the place of
        the search; constants follow by propagation, as after a search."""
        func = main_function(module)
        ops = list(planned_ops(func))
        if len(ops) != len(self.ops):
            raise StalePlanError(
                f"the plan is stale: the program has {len(ops)} operations to decide, the plan "
                f"decides {len(self.ops)}"
            )
        for op, decided in zip(ops, self.ops, strict=True):
            if op.name != MANUAL:
                for result, text in zip(op.results, decided.shardings, strict=True):
                    if (chosen := parsed_sharding(text)) is not None:
                        set_sharding(result, chosen)
            if decided.strategy is not None:
                op.attributes[STRATEGY] = parsed_strategy(decided.strategy)
            if decided.again:
                op.attributes[AGAIN] = DenseArrayBase.from_list(i64, decided.again)
        set_arg_shardings(func, map(parsed_sharding, self.arguments))
        set_result_shardings(func, map(parsed_sharding, self.results))
        if self.free_early:
            func.attributes[FREE_EARLY] = UnitAttr()
        forbid_collectives(func, self.without)
        propagate_shardings(module)


class Recorder:
    """Follows one module along its road, and gives the decisions."""

    def __init__(self) -> None:
        self._numbers: dict[Operation, int] = {}
        self._ops: list[tuple[Operation, bool]] = []
        self._program = ""
        self._inputs: tuple[str, ...] = ()
        self._demands: tuple[str, ...] = ()
        self.decisions: Decisions | None = None

    def imported(self, module: ModuleOp) -> None:
        """To be called once calls are inlined and dead code is gone."""
        func = main_function(module)
        self._program, self._inputs = fingerprint(module), _inputs(func)
        self._numbers = {op: i for i, op in enumerate(planned_ops(func))}

    def before(self, module: ModuleOp) -> None:
        """To be called before anything is decided."""
        func = main_function(module)
        self._demands = _demands(func)
        constants = ConstantFinder()
        self._ops = [
            (op, any(constants.is_copied(result) for result in op.results))
            for op in planned_ops(func)
        ]

    def after(self, module: ModuleOp, searched: bool) -> None:
        """To be called when all is decided."""
        func = main_function(module)
        self.decisions = Decisions(
            self._program,
            self._inputs,
            searched,
            self._demands,
            tuple(map(_text, shardings_of_arguments(func))),
            tuple(map(_text, shardings_of_results(func))),
            tuple(self._decided(op, free) for op, free in self._ops),
            FREE_EARLY in func.attributes,
            tuple(sorted(forbidden_collectives(func))),
        )

    def _decided(self, op: Operation, free: bool) -> DecidedOp:
        shardings = tuple(None if free else _text(sharding_of(value)) for value in op.results)
        strategy = op.attributes.get(STRATEGY)
        text = str(strategy).removeprefix(f"#{StrategyAttr.name}") if strategy else None
        again = op.attributes.get(AGAIN)
        operands = again.get_values() if isinstance(again, DenseArrayBase) else ()
        number = self._numbers.get(op)
        return DecidedOp(_label(op), _types(op), shardings, text, number, tuple(map(int, operands)))


def fingerprint(module: ModuleOp) -> str:
    """A hash of a module's operations: names, operands, attributes, types, in order; neither
    locations nor what stands on the boundary of @main."""
    digest = hashlib.sha256()
    for line in _lines(module):
        digest.update(line.encode())
    return digest.hexdigest()


def _lines(module: ModuleOp) -> Iterator[str]:
    numbers: dict[SSAValue, int] = {}
    texts: dict[int, tuple[Attribute, str]] = {}

    def text(attribute: Attribute) -> str:
        found = texts.get(id(attribute))
        if found is None:
            found = texts[id(attribute)] = attribute, str(attribute)
        return found[1]

    for op in inner_ops(module):
        if isinstance(op, GridOp):
            continue  # meshes are named otherwise where one is ambient
        attributes = {**op.properties, **op.attributes}
        if isinstance(op, FuncOp):
            attributes.pop("arg_attrs", None)
            attributes.pop("res_attrs", None)
        for region in op.regions:
            for block in region.blocks:
                for argument in block.args:
                    numbers[argument] = len(numbers)
        for result in op.results:
            numbers[result] = len(numbers)
        named = ",".join(f"{name}={text(value)}" for name, value in sorted(attributes.items()))
        operands = ",".join(str(numbers.get(value, -1)) for value in operands_of(op))
        types = ",".join(text(result.type) for result in op.results)
        yield f"{op.name}({operands}){{{named}}}:{types};{len(op.regions)}\n"


def _demands(func: FuncOp) -> tuple[str, ...]:
    keys = (KIND, BATCH_DIM, ALIASING_OUTPUT, SHARDING)
    kind = func.function_type
    found: list[str] = []
    for what, attrs, types in (
        ("argument", func.arg_attrs, kind.inputs.data),
        ("result", func.res_attrs, kind.outputs.data),
    ):
        for index, (entry, type) in enumerate(
            zip(entries_of(attrs, len(types)), types, strict=True)
        ):
            said = [
                f"{key.split('.')[-1]}={entry.data[key]}"
                for key in keys
                if key in entry.data and not _says_nothing(entry.data[key])
            ]
            found.append(" ".join([f"{what} {index} is {type}", *said]))
    return tuple(found)


_DONATED = re.compile(f" {ALIASING_OUTPUT.split('.')[-1]}=(\\d+) : i32")


def _difference(old: str, new: str) -> str:
    """What is known of an argument or a result now, against what was when it was planned."""
    if _DONATED.sub("", old) != _DONATED.sub("", new):
        return f"{_DONATED.sub('', new)}; in the plan {_DONATED.sub('', old)}"
    what = new.partition(" is ")[0]
    planned, found = (_DONATED.search(text) for text in (old, new))
    if planned is None or found is None:
        how = "donated in the plan, and not now" if planned else "donated, and not in the plan"
        return f"{what} is {how}"
    return f"{what} is donated for result {found[1]}, in the plan for result {planned[1]}"


def _says_nothing(attribute: Attribute) -> bool:
    """Whether it is a sharding that leaves all dimensions open, as that of every scalar does."""
    return isinstance(attribute, ShardingAttr) and not attribute.data.says_something


def _label(op: Operation) -> str:
    target = op.properties.get("call_target_name")
    return op.name if target is None else f"{op.name} @{str(target).strip(chr(34))}"


def _inputs(func: FuncOp) -> tuple[str, ...]:
    return tuple(map(str, func.function_type.inputs.data))


def _types(op: Operation) -> tuple[str, ...]:
    return tuple(str(result.type) for result in op.results)


def _said(name: str, types: Sequence[str]) -> str:
    return f"{name} : {', '.join(types)}" if types else name


def _text(sharding: Sharding | None) -> str | None:
    return None if sharding is None or not sharding.rank else str(sharding)


def parsed_sharding(text: str | None) -> Sharding | None:
    """A sharding as `DecidedOp` spells it. StalePlanError for text that is none."""
    if text is None:
        return None
    attribute = _parsed(f"#{ShardingAttr.name}<{text}>")
    if not isinstance(attribute, ShardingAttr):
        raise StalePlanError(f"the plan has no sharding in {text!r}")
    return attribute.data


def parsed_strategy(text: str) -> StrategyAttr:
    """A strategy as `DecidedOp` spells it. StalePlanError for text that is none."""
    attribute = _parsed(f"#{StrategyAttr.name}{text}")
    if not isinstance(attribute, StrategyAttr):
        raise StalePlanError(f"the plan has no strategy in {text!r}")
    return attribute


@cache
def _parsed(text: str) -> Attribute:
    try:
        return Parser(make_context(), text).parse_attribute()
    except ParseError as error:
        raise StalePlanError(f"the plan has no sharding in {text!r}") from error
