"""The table of sharding rules: look-up, registration, cache.

A rule function gives the rule of one op instance. Rules depend on an op's name, types, inherent
attributes and reduction body alone, so they are cached under these: the importer interns types and
attributes, and the key is their identity (the entry holds them alive).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Literal, get_args

from xdsl.ir import Attribute, Operation

from ..diagnostics import DiagnosticError
from .access import (
    body_kind,
    op_label,
    op_name,
    operand_shapes,
    operands_of,
    result_shapes,
    string,
    type_of,
)
from .core import FactorKind, RuleError, RuleFunction, ShardingRule, check_rule

_CUSTOM_CALL = "stablehlo.custom_call"
SHARDING_RULE_ATTRIBUTE = "sdy.sharding_rule"

NO_RULE: dict[str, str] = {}
"""Ops that have no rule on purpose, with the reason (`declare_no_rule`)."""

TOLD: set[str] = set()
"""Those of them that hold work which could be split: passes say that they are replicated."""

OpClass = Literal["elementwise", "pass_through", "forward", "broadcast"]
"""How Shardy's op priorities treat an op: elementwise ops and those that only move elements
(pass_through) propagate first, in both directions or forward alone; broadcasts forward last."""

FlopsFunction = Callable[[Operation], int]
"""FLOPs of one run of an op by its types: of the whole op, and of what a device has of it."""

RuleKey = tuple[object, ...]

_RULES: dict[str, RuleFunction] = {}
_CLASSES: dict[str, OpClass] = {}
_CUSTOM_CALLS: dict[str, RuleFunction] = {}
_FLOPS: dict[str, FlopsFunction] = {}
"""By the op's name, of custom_calls by `stablehlo.custom_call@target`."""
_CACHE: dict[RuleKey, tuple[ShardingRule | None, tuple[object, ...]]] = {}
_BY_VALUE: dict[tuple[object, ...], ShardingRule | None] = {}
_RULE_POOL: dict[ShardingRule, ShardingRule] = {}
"""Equal rules are one object: passes tell them apart by identity. Those of a program in work live:
only a registration empties the pool."""
_CACHE_LIMIT = 100_000
"""Entries keep types and attributes of old programs alive, hence a bound."""
_loaded = False


def sharding_rule(
    *names: str, op_class: OpClass | None = None
) -> Callable[[RuleFunction], RuleFunction]:
    """Decorator: the function gives the rule of the ops of these names; ValueError where one has
    a rule already, since nothing but the order of imports would tell which holds, and for a class
    that there is not."""

    def register(function: RuleFunction) -> RuleFunction:
        _check_class(op_class)
        for name in names:
            _add(_RULES, name, function)
            if op_class is not None:
                _CLASSES[name] = op_class
        return function

    return register


def register_sharding_rule(
    name: str,
    function: RuleFunction,
    *,
    op_class: OpClass | None = None,
    flops: FlopsFunction | None = None,
) -> None:
    """Adds or replaces the rule of the op `name` (for third parties).

    `op_class`: when propagation takes the op; None: with all those that are in no class.
    ValueError for another.
    `flops`: what the cost model takes it to compute; None: it costs its traffic with memory.
    Programs that are compiled already stay as they are: `autopar.clear_executable_cache()`.
    """
    _check_class(op_class)
    load_families()
    _RULES[name] = function
    _CLASSES.pop(name, None)
    if op_class is not None:
        _CLASSES[name] = op_class
    NO_RULE.pop(name, None)
    _state_flops(name, flops)
    clear_cache()


def register_custom_call_rule(
    target: str, function: RuleFunction, *, flops: FlopsFunction | None = None
) -> None:
    """Adds or replaces the rule of `stablehlo.custom_call` ops that call `target`; `flops` as of
    `register_sharding_rule`.

    Programs that are compiled already stay as they are: `autopar.clear_executable_cache()`.
    """
    load_families()
    _CUSTOM_CALLS[target] = function
    _state_flops(f"{_CUSTOM_CALL}@{target}", flops)
    clear_cache()


def _check_class(op_class: OpClass | None) -> None:
    if op_class is not None and op_class not in get_args(OpClass):
        known = ", ".join(get_args(OpClass))
        raise ValueError(f"op_class={op_class!r} is unknown; known: {known}, or None")


def _state_flops(key: str, flops: FlopsFunction | None) -> None:
    _FLOPS.pop(key, None)
    if flops is not None:
        _FLOPS[key] = flops


def stated_flops(op: Operation) -> int:
    """FLOPs of one run of an op, as they were registered with its rule; 0 where none were.
    DiagnosticError where the function fails, or gives no number of at least 0."""
    if not _FLOPS:
        return 0
    name = op_name(op)
    if name == _CUSTOM_CALL:
        name = f"{name}@{string(op, 'call_target_name')}"
    function = _FLOPS.get(name)
    if function is None:
        return 0
    what = f"the function of the FLOPs of {op_label(op)}"
    try:
        found = int(function(op))
    except Exception as error:
        raise DiagnosticError(op, f"{what} failed: {_failure(error)}") from error
    if found < 0:
        raise DiagnosticError(op, f"{what} gives {found}: expected at least 0")
    return found


def custom_call_rule(*targets: str) -> Callable[[RuleFunction], RuleFunction]:
    """Decorator: the function gives the rule of custom_calls to these targets; ValueError as
    `sharding_rule`."""

    def register(function: RuleFunction) -> RuleFunction:
        for target in targets:
            _add(_CUSTOM_CALLS, target, function)
        return function

    return register


def _add(table: dict[str, RuleFunction], name: str, function: RuleFunction) -> None:
    other = table.setdefault(name, function)
    if other is not function:
        raise ValueError(
            f"{name!r} has a sharding rule already, {other.__module__}.{other.__qualname__}: "
            "register_sharding_rule and register_custom_call_rule replace one"
        )


def declare_no_rule(reason: str, names: Iterable[str], *, told: bool = False) -> None:
    """Says why ops of these names have no rule; they are replicated without a remark, unless they
    are `told` of."""
    NO_RULE.update(dict.fromkeys(names, reason))
    if told:
        TOLD.update(names)


def has_rule(name: str) -> bool:
    """Whether a rule function is registered for ops of this name."""
    load_families()
    return name in _RULES


def op_classes() -> Mapping[str, OpClass]:
    """The class of each op that has one, by name; later registrations show in it."""
    load_families()
    return _CLASSES


def clear_cache() -> None:
    """Forgets all computed rules (after a registration)."""
    _CACHE.clear()
    _BY_VALUE.clear()
    _RULE_POOL.clear()


def rule_key(op: Operation) -> RuleKey:
    """All that the rule of `op` depends on, types and attributes by identity.

    Ops of one key have one rule, as long as these objects live.
    """
    name = op.name
    operands = operands_of(op)
    properties = op.properties
    key: RuleKey = (
        name,
        len(operands),
        *properties,
        *map(id, map(type_of, operands)),
        *map(id, map(type_of, op.results)),
        *map(id, properties.values()),
    )
    if op.regions:
        key += tuple(map(body_kind, op.regions))
    if op.attributes:
        told = _telling_attributes(op, name)
        if told:
            key += (*told, *map(id, told.values()))
    return key


def _telling_attributes(op: Operation, name: str) -> dict[str, Attribute]:
    """Those of the discardable attributes of an op that its rule may depend on: a custom_call's
    arguments are among them (`mhlo.backend_config`), and an unknown op's properties may be."""
    if name in ("builtin.unregistered", _CUSTOM_CALL):
        return {key: item for key, item in op.attributes.items() if not key.startswith("autopar.")}
    written = op.attributes.get(SHARDING_RULE_ATTRIBUTE)
    return {} if written is None else {SHARDING_RULE_ATTRIBUTE: written}


def get_rule(op: Operation) -> ShardingRule | None:
    """The sharding rule of `op`; None where it has none (the op is replicated).

    An `sdy.sharding_rule` attribute on the op wins over the registered rule.
    """
    key = rule_key(op)
    entry = _CACHE.get(key)
    return _find_rule(op, key) if entry is None else entry[0]


def partitioned_rule(op: Operation) -> ShardingRule | None:
    """The rule by which partitioning splits `op`, and by which plans are to count on it."""
    rule = get_rule(op)
    return rule if rule is None else rule.partitioned or rule


def _find_rule(op: Operation, key: RuleKey) -> ShardingRule | None:
    """The rule of an op whose key is new."""
    load_families()
    written = op.attributes.get(SHARDING_RULE_ATTRIBUTE)
    name = op_name(op)
    if written is None and name not in _RULES and name != _CUSTOM_CALL:
        return None
    if len(_CACHE) > _CACHE_LIMIT:
        _CACHE.clear()
        _BY_VALUE.clear()
    told = _telling_attributes(op, op.name)
    parts = (
        *map(type_of, operands_of(op)),
        *map(type_of, op.results),
        *op.properties.values(),
        *told.values(),
    )
    if written is not None:
        rule = _written_rule(op, written)
    else:
        bodies = tuple(map(body_kind, op.regions))
        by_value = (name, len(operands_of(op)), bodies, *op.properties, *told, *parts)
        if by_value not in _BY_VALUE:
            _BY_VALUE[by_value] = _registered_rule(op, name)
        rule = _BY_VALUE[by_value]
    _CACHE[key] = (rule, parts)
    return rule


def _registered_rule(op: Operation, name: str) -> ShardingRule | None:
    """What the function that is registered for an op says of it."""
    if name == _CUSTOM_CALL:
        function = _CUSTOM_CALLS.get(string(op, "call_target_name"))
    else:
        function = _RULES.get(name)
    return None if function is None else _checked(op, "sharding rule", function)


def _checked(op: Operation, what: str, function: RuleFunction) -> ShardingRule | None:
    """What a rule function says of an op; DiagnosticError where that cannot be.

    None for tensors of dynamic shape: factors have sizes.
    """
    shapes = operand_shapes(op), result_shapes(op)
    if any(size < 0 for group in shapes for shape in group for size in shape):
        return None
    try:
        rule = function(op)
        if rule is None:
            return None
        if not isinstance(rule, ShardingRule):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RuleError(f"is a {type(rule).__name__}: expected a ShardingRule, or None")
        check_rule(rule, *shapes)
    except RuleError as error:
        raise DiagnosticError(op, f"the {what} of {op_label(op)} {error}") from error
    except (DiagnosticError, RecursionError):  # said already; the program's depth
        raise
    except Exception as error:
        raise DiagnosticError(
            op, f"the {what} of {op_label(op)} failed: {_failure(error)}"
        ) from error
    return _RULE_POOL.setdefault(rule, rule)


def _failure(error: Exception) -> str:
    """What went wrong in a rule function, and where in it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"


def _written_rule(op: Operation, attribute: Attribute) -> ShardingRule | None:
    """The rule that an `#sdy.op_sharding_rule` attribute on an op spells."""
    data: Any = getattr(attribute, "data", None)
    return (
        None if data is None else _checked(op, SHARDING_RULE_ATTRIBUTE, lambda _: _from_sdy(data))
    )


def _from_sdy(written: Any) -> ShardingRule:
    """The rule that sdy's own rule data says; its reductions are sums."""
    kinds = [FactorKind.PASS_THROUGH] * len(written.factor_sizes)
    for kind, factors in (
        (FactorKind.REDUCTION, written.reduction),
        (FactorKind.NEED_REPLICATION, written.need_replication),
        (FactorKind.PERMUTATION, written.permutation),
    ):
        for factor in factors:
            kinds[factor] = kind
    return ShardingRule(
        tuple(written.factor_sizes),
        tuple(tuple(tuple(dim) for dim in tensor) for tensor in written.operands),
        tuple(tuple(tuple(dim) for dim in tensor) for tensor in written.results),
        tuple(kinds),
        tuple("sum" if kind is FactorKind.REDUCTION else None for kind in kinds),
        frozenset(written.blocked_propagation),
        is_custom=True,
    )


def load_families() -> None:
    """Imports every file of this folder: rules register themselves."""
    global _loaded
    if not _loaded:
        _loaded = True
        for file in iter_modules([str(Path(__file__).parent)]):
            import_module(f".{file.name}", __package__)
