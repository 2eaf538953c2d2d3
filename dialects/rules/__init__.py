"""Sharding rules: the one place that knows how each op may be split, a file per op family.

The names here are what third parties need to give rules to ops and custom_calls of their own
(docs/propagation.md, Rules of your own); each is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .access import operand_shapes, result_shapes
    from .core import FactorKind, RuleBuilder, RuleError, ShardingRule
    from .elementwise import pointwise_rule
    from .registry import get_rule, has_rule, register_custom_call_rule, register_sharding_rule

_PUBLIC = {
    "FactorKind": "core",
    "RuleBuilder": "core",
    "RuleError": "core",
    "ShardingRule": "core",
    "get_rule": "registry",
    "has_rule": "registry",
    "operand_shapes": "access",
    "pointwise_rule": "elementwise",
    "register_custom_call_rule": "registry",
    "register_sharding_rule": "registry",
    "result_shapes": "access",
}

__all__ = [
    "FactorKind",
    "RuleBuilder",
    "RuleError",
    "ShardingRule",
    "get_rule",
    "has_rule",
    "operand_shapes",
    "pointwise_rule",
    "register_custom_call_rule",
    "register_sharding_rule",
    "result_shapes",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
