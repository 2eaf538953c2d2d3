"""Equations of a traced function, numbered, found again in its ops, and evaluated."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax._src import core as jax_core
from jax._src import source_info_util

EQUATION = re.compile(r"eqn~(\d+)")
"""How the names of ops tell the equations that they come from, outermost first."""

_IN_PLACE = ("jit", "pjit", "closed_call", "core_call")
"""Primitives that are their body, evaluated."""

_BODIES = {
    **dict.fromkeys(_IN_PLACE, ("jaxpr", "call_jaxpr")),
    "checkpoint": ("jaxpr",),
    "remat2": ("jaxpr",),
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
}
"""The parameters of primitives that hold their bodies."""


class Rewrite(Protocol):
    """Gives the values that stand for those of an equation, which is known by its path: the numbers
    of the equations that it is in, outermost first, and its own."""

    def operands(self, path: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]: ...

    def results(self, path: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]: ...


def number_equations(traced: Any) -> Any:
    """A traced function whose equations have numbers, in the names of the ops that they are lowered
    to (`EQUATION`); the ops are the same.

    Equations of functions that are called several times have one number, and are told apart by the
    calls. Inside custom derivatives and shard_map there are none.
    """
    numbers = itertools.count()
    done: dict[int, tuple[Any, Any]] = {}

    def numbered(jaxpr: Any) -> Any:
        found = done.get(id(jaxpr))
        if found is None:
            if isinstance(jaxpr, jax_core.ClosedJaxpr):
                new: Any = jaxpr.replace(jaxpr=numbered(jaxpr.jaxpr))
            else:
                new = jaxpr.replace(eqns=[equation(eqn) for eqn in jaxpr.eqns])
            found = done[id(jaxpr)] = jaxpr, new
        return found[1]

    def equation(eqn: Any) -> Any:
        stack = eqn.source_info.name_stack.extend(f"eqn~{next(numbers)}")
        return eqn.replace(
            source_info=eqn.source_info.replace(name_stack=stack),
            params=_with_bodies(eqn, numbered),
        )

    params = {**traced._params, "jaxpr": numbered(traced.jaxpr)}
    return type(traced)(
        traced._meta_tys_flat, params, traced._in_tree, traced.out_tree, traced._consts
    )


def _with_bodies(eqn: Any, change: Callable[[Any], Any]) -> dict[str, Any]:
    params = dict(eqn.params)
    for name in _BODIES.get(eqn.primitive.name, ()):
        if name in params:
            body = params[name]
            many = isinstance(body, tuple)
            params[name] = tuple(map(change, body)) if many else change(body)  # pyright: ignore
    return params


def evaluate_numbered(jaxpr: Any, values: Sequence[Any], rewrite: Rewrite) -> list[Any]:
    """Evaluates what `number_equations` gave (its `jaxpr`), with `rewrite` at the ends of every
    equation, also of those inside loops, branches and rematerialised functions."""
    return _evaluate(jaxpr.jaxpr, jaxpr.consts, values, (), rewrite)


def _evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    values: Sequence[Any],
    path: tuple[int, ...],
    rewrite: Rewrite,
) -> list[Any]:
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax_core.Literal) else env[atom]

    equal: dict[Any, Sequence[Any]] = {}
    for eqn in jaxpr.eqns:
        key = _equation_key(eqn, env)
        if key is not None and key in equal:  # lowering merges them too: the first has the ops
            env.update(zip(eqn.outvars, equal[key], strict=True))
            continue
        stack = eqn.source_info.name_stack
        own = (*path, int(stack.stack[-1].name.partition("~")[2]))
        outer = source_info_util.current_name_stack() + stack[:-1]
        operands = list(map(read, eqn.invars))
        with (
            source_info_util.user_context(eqn.source_info.traceback, name_stack=outer),
            eqn.ctx.manager,
        ):
            if eqn.primitive.name in _IN_PLACE:
                body = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
                results = _evaluate(body.jaxpr, body.consts, operands, own, rewrite)
            else:
                params = _with_bodies(eqn, lambda body: _rewritten(body, own, rewrite))  # noqa: B023
                operands = rewrite.operands(own, operands)
                results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
                if not eqn.primitive.multiple_results:
                    results = [results]
                results = rewrite.results(own, results)
        env.update(zip(eqn.outvars, results, strict=True))
        if key is not None:
            equal[key] = results
    return list(map(read, jaxpr.outvars))


def _equation_key(eqn: Any, env: dict[Any, Any]) -> Any:
    """What is the same for equations that compute the same; None where that is not told."""
    if eqn.effects or eqn.primitive.name == "optimization_barrier":
        return None
    operands = [
        (str(atom.aval), np.asarray(atom.val).tobytes())
        if isinstance(atom, jax_core.Literal)
        else id(env[atom])
        for atom in eqn.invars
    ]
    key = (eqn.primitive, tuple(operands), *sorted(eqn.params.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _rewritten(body: Any, path: tuple[int, ...], rewrite: Rewrite) -> Any:
    """A body with `rewrite` at its equations; as it is, where it takes references."""
    is_closed = isinstance(body, jax_core.ClosedJaxpr)
    inner, consts = (body.jaxpr, body.consts) if is_closed else (body, ())
    avals = [var.aval for var in inner.invars]
    if not all(type(aval) is jax_core.ShapedArray for aval in avals):
        return body

    def function(*values: Any) -> Any:
        return _evaluate(inner, consts, values, path, rewrite)

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    new = jax.make_jaxpr(function)(*shapes)
    same = [(a.shape, a.dtype, a.weak_type) for a in new.out_avals] == [
        (v.aval.shape, v.aval.dtype, v.aval.weak_type) for v in inner.outvars
    ]
    if not same or (new.consts and not is_closed):
        return body
    return new if is_closed else new.jaxpr
