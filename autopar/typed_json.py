"""Values of JSON as typed data: frozen dataclasses, tuples, and what may stand in them.

    plan = from_json(json.loads(text), PlanFile)

What is of another type is one ValueError that says where it stands: `ops[3].types: expected a list,
found null`.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, cast

_SHOWN = 40
"""Characters of a wrong value that are shown."""
_SCALARS: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    float: ("a number", (int, float)),
    int: ("a whole number", (int,)),
    str: ("text", (str,)),
}


def from_json(value: object, hint: Any, where: str = "") -> Any:
    """The value as the hint has it; `where` it stands, for the error."""
    if is_dataclass(hint):
        return _record(_mapping(value, where), cast("type[Any]", hint), where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # X | None
        one = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else from_json(value, one, where)
    if origin is tuple or origin is list:
        items: list[Any] = [from_json(item, arguments[0], at) for at, item in _items(value, where)]
        return items if origin is list else tuple(items)
    if origin is dict:
        found = _mapping(value, where)
        return {key: from_json(one, arguments[1], f"{where}.{key}") for key, one in found.items()}
    words, allowed = _SCALARS[hint]
    is_bool = isinstance(value, bool)
    if not isinstance(value, allowed) or is_bool != (hint is bool) or not _is_finite(value):
        raise _wrong(where, words, value)
    return value


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _items(value: object, where: str) -> list[tuple[str, object]]:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    return [(f"{where}[{i}]", item) for i, item in enumerate(cast("list[object]", value))]


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return cast("Mapping[str, object]", value)


def _record(found: Mapping[str, object], cls: type[Any], where: str) -> Any:
    prefix = f"{where}." if where else ""
    known = _fields(cls)
    for name in found:
        if name not in known:
            raise ValueError(f"{prefix}{name} is unknown; known: {', '.join(known)}")
    for name, (field, _) in known.items():
        if name not in found and field.default is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    values = {name: from_json(one, known[name][1], prefix + name) for name, one in found.items()}
    try:
        return cls(**values)
    except ValueError as error:  # what the class itself checks
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


@cache
def _fields(cls: type[Any]) -> dict[str, tuple[Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return {field.name: (field, hints[field.name]) for field in fields(cls)}


def _wrong(where: str, expected: str, value: object) -> ValueError:
    text = json.dumps(value)
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return ValueError(f"{where + ': ' if where else ''}expected {expected}, found {shown}")
