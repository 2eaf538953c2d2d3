"""Attributes made without xDSL's verification, which takes several times as long as the making.

For attributes whose fields are sound because of where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from immutabledict import immutabledict
from xdsl.dialects.builtin import DictionaryAttr, IntAttr, IntegerAttr, IntegerType
from xdsl.ir import Attribute


def unverified(cls: type[Attribute], **fields: Any) -> Any:
    """An attribute of this class with these fields."""
    attribute: Any = object.__new__(cls)
    attribute.__dict__.update(fields)
    return attribute


def dictionary(items: Mapping[str, Attribute]) -> DictionaryAttr:
    """A dictionary attribute."""
    return unverified(DictionaryAttr, data=immutabledict(items))


def integer_attr(value: int, type: IntegerType) -> IntegerAttr[IntegerType]:
    """An integer attribute; `value` fits the type."""
    return unverified(IntegerAttr, value=unverified(IntAttr, data=value), type=type)
