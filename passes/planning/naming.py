"""Values by what a user knows of them: arguments, results, places in the source, name stacks."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import PurePath

from xdsl.dialects.builtin import NameLoc, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from autopar.dialects.autopar import entries_of
from autopar.dialects.diagnostics import location_frames, location_names, user_frame
from autopar.dialects.locations import FileLocation
from autopar.dialects.rules.access import operands_of

_NUMBERED = re.compile(r"(arg|argument|out|result) ?(\d+)$")
_SOURCE = re.compile(r"(?P<file>.+?):(?P<line>\d+)(:(?P<column>\d+))?$")
_LAYER_NUMBER = re.compile(r"(?<=[A-Za-z_\['/(])\d+(?=[\]'/ ,)]|$)|(?<=_)\d+(?=_)")
_RESULT_INFO = "jax.result_info"
_CLOSE = 4
"""Names that are offered for one that is unknown."""


class UnknownValueError(ValueError):
    """No value has the name; the message is one line that says which are near."""


@dataclass(frozen=True)
class Named:
    """One value that a name means: an argument, a result, or what an op computes."""

    value: SSAValue | None
    """None of an op without results."""
    argument: int | None = None
    result: int | None = None
    op: Operation | None = None


class ValueNames:
    """The names of a function's values. Those of arguments and results are read from JAX's
    locations and attributes where they are not given."""

    def __init__(
        self,
        func: FuncOp,
        ops: Sequence[Operation],
        arguments: Sequence[str] = (),
        results: Sequence[str] = (),
    ) -> None:
        self._func, self._ops = func, ops
        args, last = func.body.block.args, func.body.block.last_op
        assert last is not None
        self._returned = operands_of(last)
        self.arguments = list(arguments) or [_argument_name(arg) for arg in args]
        entries = entries_of(func.res_attrs, len(self._returned))
        infos = [entry.data.get(_RESULT_INFO) for entry in entries]
        self.results = list(results) or [
            info.data if isinstance(info, StringAttr) and info.data else f"out{index}"
            for index, info in enumerate(infos)
        ]

    def of(self, value: SSAValue) -> str:
        """What a value is called where others speak of it."""
        if isinstance(value, BlockArgument) and value.owner is self._func.body.block:
            return self.arguments[value.index]
        return f"the result of {op_label(value.owner)}" if isinstance(value.owner, Operation) else (
            "a value that a loop carries"
        )  # fmt: skip

    def find(self, name: str) -> list[Named]:
        """The values that a name means. UnknownValueError where there is none."""
        found = self._boundary(name) or self._at(name) or self._under(name)
        if not found:
            raise UnknownValueError(f"no value is named {name!r}: {self._there_is(name)}")
        return found

    def every_argument(self) -> list[Named]:
        return [Named(arg, argument=arg.index) for arg in self._func.body.block.args]

    def _boundary(self, name: str) -> list[Named]:
        args, results = self._func.body.block.args, self._returned
        number = numbered(name)
        if number is not None:
            is_argument, index = number
            if is_argument and index < len(args):
                return [Named(args[index], argument=index)]
            if not is_argument and index < len(results):
                return [Named(results[index], result=index)]
        if name in self.arguments:
            index = self.arguments.index(name)
            return [Named(args[index], argument=index)]
        if name in self.results:
            index = self.results.index(name)
            return [Named(results[index], result=index)]
        return [
            Named(args[index], argument=index)
            for index, whole in enumerate(self.arguments)
            if whole.startswith((f"{name}[", f"{name}."))
        ]

    def _at(self, name: str) -> list[Named]:
        """By `model.py:41` or `model.py:41:7`: what the user's line computes, or what is computed
        by functions that it calls where it computes nothing itself."""
        wanted = _SOURCE.match(name)
        if wanted is None:
            return []
        own = [op for op in self._ops if _is_at(user_frame(op.location), wanted)]
        called = own or [
            op
            for op in self._ops
            if any(_is_at(frame, wanted) for frame in location_frames(op.location))
        ]
        return list(_values_of(called))

    def _under(self, name: str) -> list[Named]:
        """By a part of a name stack: `Block_0/Dense_1` or `jit(step)/jvp()/dot_general`."""
        if not (words := name.strip("/")):
            return []
        return list(_values_of(op for op in self._ops if f"/{words}/" in f"/{name_stack(op)}/"))

    def _there_is(self, name: str) -> str:
        known = [*self.arguments, *self.results]
        for op in self._ops:
            frame = user_frame(op.location)
            if frame is not None:
                known.append(source_place(frame))
            known.append(name_stack(op))
        near = closest(name, known)
        counts = boundary_text(len(self.arguments), len(self.results))
        return f"{near}there are {counts}, source places as model.py:41, and name stacks"


def closest(name: str, known: Iterable[str]) -> str:
    """`near to it are a, b; `, empty where nothing is."""
    names = [*dict.fromkeys(filter(None, known))]
    holding = [one for one in names if name in one]
    close = [*dict.fromkeys([*holding, *get_close_matches(name, names, _CLOSE, 0.4)])][:_CLOSE]
    return f"near to it are {', '.join(close)}; " if close else ""


def boundary_text(num_arguments: int, num_results: int) -> str:
    """How arguments and results are named by number."""
    counts = f"arg0 to arg{num_arguments - 1}" if num_arguments else "no arguments"
    return f"{counts}, out0 to out{num_results - 1}" if num_results else counts


def numbered(name: str) -> tuple[bool, int] | None:
    """(whether it is an argument, its number) of `arg3`, `out0` and the like."""
    found = _NUMBERED.match(name)
    return None if found is None else (found[1].startswith("arg"), int(found[2]))


def _values_of(ops: Iterable[Operation]) -> Iterator[Named]:
    for op in ops:
        if not op.results:
            yield Named(None, op=op)
        for result in op.results:
            yield Named(result, op=op)


def _argument_name(arg: BlockArgument) -> str:
    location = arg.location
    if isinstance(location, NameLoc) and location.desc.data:
        return location.desc.data
    return f"arg{arg.index}"


def _is_at(frame: FileLocation | None, wanted: re.Match[str]) -> bool:
    if frame is None or frame.line.data != int(wanted["line"]):
        return False
    if wanted["column"] is not None and frame.column.data != int(wanted["column"]):
        return False
    file, given = PurePath(frame.filename.data).parts, PurePath(wanted["file"]).parts
    return file[-len(given) :] == given


def source_place(frame: FileLocation) -> str:
    """`model.py:41` of a frame."""
    return f"{PurePath(frame.filename.data).name}:{frame.line.data}"


def place_of_op(op: Operation) -> str:
    """`model.py:41` where the user's file says it, else empty."""
    return _place_at(op.location)


@cache
def _place_at(location: Attribute) -> str:
    frame = user_frame(location)
    return "" if frame is None or not frame.line.data else source_place(frame)


def name_stack(op: Operation) -> str:
    """JAX's name stack of an op, without the outermost function; empty where it has none."""
    return _stack_at(op.location)


@cache
def _stack_at(location: Attribute) -> str:
    names = [name for name in location_names(location) if "/" in name]
    return names[0] if names else ""


def op_label(op: Operation) -> str:
    """An op for a reader: kind, layer, place."""
    kind = op.name.removeprefix("stablehlo.")
    layer = "/".join(name_stack(op).split("/")[1:-1])
    where = ", ".join(filter(None, (layer, place_of_op(op))))
    return f"{kind} ({where})" if where else kind


def pattern(text: str) -> str:
    """The text with numbers as `*`: equal for what differs in the layer alone."""
    return _LAYER_NUMBER.sub("*", text)


def grouped(texts: Iterable[str]) -> dict[str, list[int]]:
    """The places of texts by their patterns."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[pattern(text)].append(index)
    return groups
