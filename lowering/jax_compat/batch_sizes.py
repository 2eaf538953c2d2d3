"""A step and its microbatch: which numbers of the one come of the batch's size."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import weakref
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from jax._src import core as jax_core
from jax._src import source_info_util
from jax._src.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo  # pyright: ignore[reportMissingTypeStubs]

_BATCH_SIZED = jax_core.Primitive("batch_sized")
"""A literal that is another one for the whole batch."""

_BATCH_SHAPED = jax_core.Primitive("batch_shaped")
"""A broadcast whose result has as many rows as the batch, of values that do not depend on it."""

_WHOLE_BATCH, _BATCH_DIMS = "autopar.whole_batch", "autopar.batch_dims"

_marked: weakref.WeakKeyDictionary[Any, tuple[Any, int, Any, bool]] = weakref.WeakKeyDictionary()
"""By a microbatch's jaxpr: JAX keeps the jaxprs that it traced, and by them what it lowered."""


def mark_batch_sizes(whole: Any, micro: Any, count: int) -> tuple[Any, bool]:
    """The traced step of one of `count` microbatches, its numbers that come of the batch's size
    marked with those of the traced step of the whole batch (`autopar.whole_batch` of constants,
    `autopar.batch_dims` of broadcasts); and whether all of them are.

    ValueError where the step takes another course for a microbatch than for the whole batch, but
    inside of functions that are differentiated: there a microbatch sees its own size.
    """
    known = _marked.get(micro.jaxpr)
    if known is not None and known[0]() is whole.jaxpr and known[1] == count:
        _, _, closed, complete = known
    else:
        marker = _Marker(count)
        closed = marker.closed(whole.jaxpr, micro.jaxpr, in_model=False)
        complete = marker.complete
        if closed is not micro.jaxpr:
            _marked[micro.jaxpr] = weakref.ref(whole.jaxpr), count, closed, complete
    if closed is micro.jaxpr:
        return micro, complete
    parameters = {**micro._params, "jaxpr": closed}
    traced = type(micro)(
        micro._meta_tys_flat, parameters, micro._in_tree, micro.out_tree, micro._consts
    )
    return traced, complete


class _Marker:
    """Goes through two jaxprs in step; results are kept, since JAX shares inner jaxprs."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.complete = True
        """Whether every equation has had its like in the whole batch's jaxpr."""
        self._known: dict[tuple[int, int, bool], tuple[Any, Any, Any]] = {}

    def closed(self, whole: Any, micro: Any, in_model: bool) -> Any:
        for one, two in zip(whole.consts, micro.consts, strict=False):
            if one is not two and np.shape(one) == np.shape(two) and not _is_same(one, two):
                raise ValueError(
                    f"num_micro_batches={self._count}: an array of shape {np.shape(two)} that the "
                    "step makes outside of JAX is another one for a microbatch, as if made of the "
                    "batch's size: make it outside of the step"
                )
        jaxpr = self._jaxpr(whole.jaxpr, micro.jaxpr, in_model)
        return micro if jaxpr is micro.jaxpr else micro.replace(jaxpr=jaxpr)

    def _jaxpr(self, whole: Any, micro: Any, in_model: bool) -> Any:
        if whole is micro:
            return micro
        key = id(whole), id(micro), in_model
        if key not in self._known:  # the two are kept alive for their ids
            self._known[key] = whole, micro, self._marked(whole, micro, in_model)
        return self._known[key][2]

    def _marked(self, whole: Any, micro: Any, in_model: bool) -> Any:
        eqns: list[Any] = []
        for ours, theirs in _aligned(whole.eqns, micro.eqns):
            names = str(theirs.source_info.name_stack)
            inside = in_model or "jvp(" in names or "transpose(" in names
            if ours is None:
                self._check_alone(theirs, inside)
                eqns.append(theirs)
                continue
            eqns += self._equation(ours, theirs, inside)
        outs = [
            self._literal(a, b, source_info_util.new_source_info(), eqns)
            for a, b in zip(whole.outvars, micro.outvars, strict=True)
        ]
        if all(a is b for a, b in zip(eqns, micro.eqns, strict=False)) and outs == micro.outvars:
            return micro
        # JAX forgets the names of arguments and results where results are other variables
        return micro.replace(eqns=eqns, outvars=outs, debug_info=micro.debug_info)

    def _check_alone(self, eqn: Any, in_model: bool) -> None:
        place = source_info_util.summarize(eqn.source_info)
        self.complete = False
        if not in_model and place:
            raise ValueError(
                f"{place}: the step takes another course for a microbatch than for the whole batch "
                f"({eqn.primitive.name}), since it asks for the batch's size; num_micro_batches="
                f"{self._count} runs it on a part: ask for the size outside of the step"
            )

    def _equation(self, ours: Any, theirs: Any, in_model: bool) -> list[Any]:
        eqns: list[Any] = []
        ins = [
            self._literal(a, b, theirs.source_info, eqns)
            for a, b in zip(ours.invars, theirs.invars, strict=True)
        ]
        changed = bool(eqns)
        parameters = dict(theirs.params)
        for name, value in theirs.params.items():
            other = ours.params.get(name)
            if value is not other:
                new = self._parameter(other, value, in_model)
                changed |= new is not value
                parameters[name] = new
        pairs = [*zip(ours.invars, theirs.invars, strict=True)]
        outs = [*zip(ours.outvars, theirs.outvars, strict=True)]
        own_shape = all(_shape(a) == _shape(b) for a, b in pairs)
        if own_shape and theirs.primitive.name == "broadcast_in_dim":
            dims = self._batch_dims(_shape(ours.outvars[0]), _shape(theirs.outvars[0]))
            if dims:
                options = tuple(theirs.params.items())
                bound = {"inner": theirs.primitive, "options": options, "dims": dims}
                return [*eqns, theirs.replace(invars=ins, primitive=_BATCH_SHAPED, params=bound)]
        if own_shape and not in_model and all(_shape(a) == _shape(b) for a, b in outs):
            self._check_numbers(ours, theirs)
        return [*eqns, theirs.replace(invars=ins, params=parameters) if changed else theirs]

    def _check_numbers(self, ours: Any, theirs: Any) -> None:
        """Refuses a parameter that is the batch's size: how often a loop runs."""
        place = source_info_util.summarize(theirs.source_info)
        for name, value in theirs.params.items():
            other = ours.params.get(name)
            is_number = isinstance(value, int | float) and isinstance(other, int | float)
            if is_number and not _is_same(value, other) and place:
                raise ValueError(
                    f"{place}: {name}={other} of the whole batch is {value} of a microbatch: "
                    "outside of the loss function take the size of the batch from outside the "
                    f"step, not from a shape (num_micro_batches={self._count} runs it on a part)"
                )

    def _batch_dims(self, whole: Sequence[int], micro: Sequence[int]) -> tuple[int, ...]:
        sizes = enumerate(zip(whole, micro, strict=True))
        return tuple(dim for dim, (a, b) in sizes if a != b and a == b * self._count)

    def _parameter(self, whole: Any, micro: Any, in_model: bool) -> Any:
        if isinstance(micro, tuple) and isinstance(whole, tuple) and len(micro) == len(whole):
            found = tuple(
                self._parameter(a, b, in_model) for a, b in zip(whole, micro, strict=True)
            )
            if all(a is b for a, b in zip(found, micro, strict=True)):
                return micro
            return type(micro)(*found) if hasattr(micro, "_fields") else found
        if isinstance(micro, jax_core.ClosedJaxpr) and isinstance(whole, jax_core.ClosedJaxpr):
            return self.closed(whole, micro, in_model)
        if isinstance(micro, jax_core.Jaxpr) and isinstance(whole, jax_core.Jaxpr):
            return self._jaxpr(whole, micro, in_model)
        return micro

    def _literal(self, whole: Any, micro: Any, source: Any, eqns: list[Any]) -> Any:
        """The value to read in place of a literal, and in `eqns` what makes it."""
        if not isinstance(micro, jax_core.Literal) or not isinstance(whole, jax_core.Literal):
            return micro
        if _shape(whole) or _shape(micro) or _is_same(whole.val, micro.val):
            return micro
        aval: Any = micro.aval
        value = jax_core.Var(aval)
        parameters = {
            "value": np.asarray(micro.val).item(),
            "whole": np.asarray(whole.val).item(),
            "dtype": str(aval.dtype),  # tells equal numbers apart in JAX's caches
        }
        effects_: Any = jax_core.no_effects
        eqns.append(jax_core.new_jaxpr_eqn([], [value], _BATCH_SIZED, parameters, effects_, source))
        return value


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value.aval, "shape", ()))


def _is_same(one: Any, two: Any) -> bool:
    """Whether two numbers or arrays are the same, NaN included."""
    first, second = np.asarray(one), np.asarray(two)
    return bool(((first == second) | ((first != first) & (second != second))).all())


def _aligned(whole: Sequence[Any], micro: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Each equation of a microbatch's jaxpr, and the one for it of the whole batch's, or None."""
    if [e.primitive for e in whole] == [e.primitive for e in micro]:
        return list(zip(whole, micro, strict=True))

    def keys(eqns: Sequence[Any]) -> list[Any]:
        return [(e.primitive, source_info_util.summarize(e.source_info)) for e in eqns]

    partners: list[Any] = [None] * len(micro)
    blocks = SequenceMatcher(None, keys(whole), keys(micro), autojunk=False).get_matching_blocks()
    for block in blocks:
        for offset in range(block.size):
            one, two = whole[block.a + offset], micro[block.b + offset]
            if len(one.invars) == len(two.invars) and len(one.outvars) == len(two.outvars):
                partners[block.b + offset] = one
    return list(zip(partners, micro, strict=True))


def _batch_sized_lowering(ctx: Any, *, value: Any, whole: Any, dtype: str) -> Any:
    if np.issubdtype(np.dtype(dtype), np.complexfloating):  # jaxlib cannot hand such attributes on
        part = "float32" if dtype == "complex64" else "float64"
        pairs = ((value.real, whole.real), (value.imag, whole.imag))
        parts = [_marked_constant(one, other, part) for one, other in pairs]
        return [hlo.complex(*parts)]
    return [_marked_constant(value, whole, dtype)]


def _marked_constant(value: Any, whole: Any, dtype: str) -> Any:
    constants: list[Any] = [
        mlir.ir_constant(np.asarray(n, np.dtype(dtype))) for n in (value, whole)
    ]
    found, other = (constant.owner for constant in constants)
    found.attributes[_WHOLE_BATCH] = other.attributes["value"]
    return found.results[0]


def _batch_shaped_lowering(ctx: Any, *values: Any, inner: Any, options: Any, dims: Any) -> Any:
    def bind(*operands: Any) -> Any:
        return inner.bind(*operands, **dict(options))

    results = mlir.lower_fun(bind, multiple_results=False)(ctx, *values)
    owner: Any = results[0].owner
    owner.attributes[_BATCH_DIMS] = ir.DenseI64ArrayAttr.get(list(dims))
    return results


LOWERING_RULES = (
    (_BATCH_SIZED, _batch_sized_lowering),
    (_BATCH_SHAPED, _batch_shaped_lowering),
)
"""How the marks that `mark_batch_sizes` leaves are lowered."""
