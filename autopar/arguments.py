"""Which of a function's arguments are static, donated or the batch, by position and by name.

As in `jax.jit`, an argument that was named by its position is meant by its name as well, and the
other way round, where the function's signature tells both.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

Slot = int | str
"""An argument in a call: its position, or its keyword."""


@dataclass(frozen=True)
class Marked:
    """Arguments that the user marked for something."""

    nums: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def slots(self, num_args: int) -> set[Slot]:
        """The slots of a call with `num_args` positional arguments."""
        return {*(n + num_args if n < 0 else n for n in self.nums), *self.names}


@dataclass(frozen=True)
class Leaf:
    """One flat argument of a call."""

    slot: Slot
    """The argument that it is part of."""
    name: str
    """As a user would write it: `state['params']['w']`."""
    path: str = ""
    """Inside the argument: `['params']['w']`."""


class ArgumentRoles:
    """What `parallelize` was told about a function's arguments."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        static_argnums: Any,
        static_argnames: Any,
        donate_argnums: Any,
        donate_argnames: Any,
        batch_argnums: Any,
    ) -> None:
        try:
            self._parameters = list(inspect.signature(fn).parameters.values())
        except (TypeError, ValueError):  # builtins have no signature
            self._parameters = None
        self.auto_donate = donate_argnums == "auto"
        if isinstance(donate_argnums, str) and not self.auto_donate:
            raise ValueError(
                f"donate_argnums={donate_argnums!r}: expected positions, or 'auto'; names go into "
                "donate_argnames"
            )
        self.static = self._marked("static", static_argnums, static_argnames)
        donated = () if self.auto_donate else donate_argnums
        self.donated = self._marked("donate", donated, donate_argnames)
        self.batch = None if batch_argnums is None else self._marked("batch", batch_argnums, None)
        self.has_static = bool(self.static.nums or self.static.names)
        both = set(self.static.nums) & set(self.donated.nums)
        if both:
            raise ValueError(f"argument {min(both)} cannot be both static and donated")

    def _marked(self, what: str, nums: Any, names: Any) -> Marked:
        numbers, words = _as_tuple(nums, int, what), _as_tuple(names, str, what)
        parameters = self._parameters
        if parameters is None:
            return Marked(numbers, words)
        positional = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        if not any(p.kind == p.VAR_POSITIONAL for p in parameters):
            for number in numbers:
                if not -len(positional) <= number < len(positional):
                    raise ValueError(
                        f"{what}_argnums={numbers}: the function takes {len(positional)} "
                        "positional arguments"
                    )
            numbers = tuple(n + len(positional) if n < 0 else n for n in numbers)
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            known = [p.name for p in parameters if p.kind != p.VAR_POSITIONAL]
            for word in words:
                if word not in known:
                    raise ValueError(
                        f"{what}_argnames={words}: the function has no argument {word!r} "
                        f"(its arguments: {', '.join(known)})"
                    )
        kinds = {p.name: p.kind for p in parameters}
        if numbers and not words:
            words = tuple(
                positional[n]
                for n in numbers
                if 0 <= n < len(positional)
                and kinds[positional[n]] == inspect.Parameter.POSITIONAL_OR_KEYWORD
            )
        elif words and not numbers:
            numbers = tuple(positional.index(word) for word in words if word in positional)
        return Marked(numbers, words)

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Dynamic (args, kwargs), and the static values as a hashable key."""
        if not self.has_static:
            return (args, kwargs), None
        static = self.static.slots(len(args))
        dynamic = tuple(a for i, a in enumerate(args) if i not in static)
        named = {k: v for k, v in kwargs.items() if k not in static}
        values: list[tuple[Slot, Any]] = [(i, a) for i, a in enumerate(args) if i in static]
        values += sorted((k, v) for k, v in kwargs.items() if k in static)
        key = tuple((slot, type(value), value) for slot, value in values)
        try:
            hash(key)
        except TypeError:
            for slot, kind, value in key:
                try:
                    hash(value)
                except TypeError:
                    raise ValueError(
                        f"static argument {self.label(slot)} is a {kind.__name__}, which is not "
                        "hashable: pass it as a tuple or a frozen object, or do not make it static"
                    ) from None
            raise
        return (dynamic, named), key

    def join(self, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any) -> tuple[Any, Any]:
        """Full (args, kwargs) with the dynamic ones replaced."""
        static = self.static.slots(len(args))
        values = iter(dynamic[0])
        full = tuple(a if i in static else next(values) for i, a in enumerate(args))
        return full, {**kwargs, **dynamic[1]}

    def leaves(self, num_args: int, paths: Sequence[Any]) -> list[Leaf]:
        """What the flat dynamic arguments are, of the key paths of (args, kwargs)."""
        static = self.static.slots(num_args)
        positions = [i for i in range(num_args) if i not in static]
        found: list[Leaf] = []
        for path in paths:
            where = path[1]
            slot: Slot = positions[where.idx] if path[0].idx == 0 else where.key
            inside = jax.tree_util.keystr(path[2:])
            found.append(Leaf(slot, self.label(slot) + inside, inside))
        return found

    def label(self, slot: Slot) -> str:
        """An argument's name, where the signature tells it."""
        if isinstance(slot, str):
            return slot
        parameters = self._parameters or []
        if slot < len(parameters) and parameters[slot].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            return parameters[slot].name
        return f"argument {slot}"


def by_slot(leaves: Sequence[Leaf]) -> dict[Slot, list[int]]:
    """The indices of the flat arguments of each argument, in order."""
    found: dict[Slot, list[int]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        found[leaf.slot].append(index)
    return found


def _as_tuple(value: Any, kind: type, what: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    values = tuple(value) if isinstance(value, Iterable) and type(value) is not str else (value,)
    for item in values:
        if not isinstance(item, kind):
            suffix = "argnums" if kind is int else "argnames"
            raise TypeError(f"{what}_{suffix}={value!r}: expected {kind.__name__}s")
    return values
