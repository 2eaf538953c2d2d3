"""Random JAX programs with random grids and shardings, for the differential oracle.

Every choice is made by a `Chooser`, so that hypothesis or a plain seeded generator can drive it. A
program is data (steps on numbered values): it can be printed, and shrunk by `simpler`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from autopar.dialects.sharding import Grid

from .oracle import Dims, check

GRIDS = (
    (("x", 2), ("y", 4)),
    (("x", 2), ("y", 2), ("z", 2)),
    (("x", 8),),
    (("x", 3), ("y", 2)),
    (("x", 1), ("y", 4), ("z", 2)),
)
SIZES = (1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 12, 16)
LIMIT = 4000
"""Elements of the largest value."""

Shape = tuple[int, ...]


class Chooser(Protocol):
    def one_of(self, options: Sequence[Any]) -> Any: ...

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        ...

    def chance(self, percent: int) -> bool: ...


@dataclass(frozen=True)
class Step:
    """One value: `apply` on the values of `operands`."""

    name: str
    operands: tuple[int, ...]
    apply: Callable[..., Any]
    constraint: Dims | None = None
    """What with_sharding_constraint demands of the value."""


@dataclass(frozen=True)
class Program:
    grid: Grid
    args: tuple[np.ndarray[Any, Any], ...]
    shardings: tuple[Dims | None, ...]
    steps: tuple[Step, ...]
    """Value number len(args) + i is that of step i."""
    outputs: tuple[int, ...]
    result_shardings: tuple[Dims | None, ...]

    def evaluate(self, args: Sequence[Any], *, constrained: bool = False) -> list[Any]:
        values: list[Any] = list(args)
        needed = self.needed()
        for index, step in enumerate(self.steps):
            if len(args) + index not in needed:
                values.append(None)
                continue
            value = step.apply(*(values[i] for i in step.operands))
            if constrained and step.constraint is not None:
                value = lax.with_sharding_constraint(value, self._named(step.constraint))
            values.append(value)
        return [values[i] for i in self.outputs]

    def needed(self) -> set[int]:
        """The values that the outputs are made of."""
        found: set[int] = set()
        stack = list(self.outputs)
        while stack:
            value = stack.pop()
            if value not in found:
                found.add(value)
                if value >= len(self.args):
                    stack += self.steps[value - len(self.args)].operands
        return found

    def _named(self, dims: Dims) -> NamedSharding:
        shape, names = self.grid.shape, self.grid.axis_names
        devices = np.array(jax.devices()[: self.grid.num_devices]).reshape(shape)
        mesh = Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))
        return NamedSharding(mesh, PartitionSpec(*(tuple(dim) or None for dim in dims)))

    def check(self) -> None:
        """Runs it through the oracle."""
        check(
            lambda *args: self.evaluate(args, constrained=True),
            self.args,
            self.grid,
            self.shardings,
            self.result_shardings,
            reference=lambda *args: self.evaluate(args),
            rtol=1e-3,
            atol=1e-3,
        )

    def __str__(self) -> str:
        needed = self.needed()
        lines = [f"grid {dict(self.grid.axes)}"]
        for index, (arg, sharding) in enumerate(zip(self.args, self.shardings, strict=True)):
            if index in needed:
                lines.append(f"  %{index} = argument {arg.dtype}{list(arg.shape)} {sharding}")
        for index, step in enumerate(self.steps, len(self.args)):
            if index in needed:
                at = "" if step.constraint is None else f" constrained {step.constraint}"
                read = ", ".join(f"%{i}" for i in step.operands)
                lines.append(f"  %{index} = {step.name}({read}){at}")
        for value, sharding in zip(self.outputs, self.result_shardings, strict=True):
            lines.append(f"  return %{value} {sharding}")
        return "\n".join(lines)


# ---- simpler programs ----------------------------------------------------------------------------


def simpler(program: Program) -> Iterator[Program]:
    """Programs that do less: fewer outputs, values made arguments, fewer shardings."""
    if len(program.outputs) > 1:
        for index in range(len(program.outputs)):
            yield replace(
                program,
                outputs=(program.outputs[index],),
                result_shardings=(program.result_shardings[index],),
            )
    yield from _cut(program)
    for index, sharding in enumerate(program.shardings):
        if sharding is not None and any(sharding):
            changed = list(program.shardings)
            changed[index] = None
            yield replace(program, shardings=tuple(changed))
    for index, sharding in enumerate(program.result_shardings):
        if sharding is not None:
            changed = list(program.result_shardings)
            changed[index] = None
            yield replace(program, result_shardings=tuple(changed))
    for index, step in enumerate(program.steps):
        if step.constraint is not None:
            steps = list(program.steps)
            steps[index] = replace(step, constraint=None)
            yield replace(program, steps=tuple(steps))


def _cut(program: Program) -> Iterator[Program]:
    """One value at a time becomes an argument (holding what it was)."""
    count = len(program.args)
    needed = program.needed()
    for index in reversed(range(len(program.steps))):
        value = count + index
        if value not in needed or value in program.outputs:
            continue
        whole = replace(program, outputs=(value,), result_shardings=(None,))
        array = np.asarray(jax.jit(whole.evaluate)(program.args)[0])

        def renumber(old: int, value: int = value) -> int:
            return count if old == value else old if old < count else old + 1

        steps = [
            replace(step, operands=tuple(renumber(i) for i in step.operands))
            for step in program.steps
        ]
        yield Program(
            program.grid,
            (*program.args, array),
            (*program.shardings, program.steps[index].constraint),
            tuple(steps),
            tuple(renumber(i) for i in program.outputs),
            program.result_shardings,
        )


# ---- making programs -----------------------------------------------------------------------------


class Generator:
    """Writes one program."""

    def __init__(self, choose: Chooser, *, steps: int) -> None:
        self._choose = choose
        self._random = np.random.default_rng(choose.integer(0, 999))
        self._grid = Grid("mesh", choose.one_of(GRIDS))
        self._args: list[np.ndarray[Any, Any]] = []
        self._arg_ids: list[int] = []
        self._steps: list[Step] = []
        self._values: list[tuple[int, Shape]] = []
        """Float values: provisional number and shape (arguments count from -1 down)."""
        self._wanted = steps

    def program(self) -> Program:
        choose = self._choose
        for _ in range(choose.integer(1, 3)):
            self._argument(self._shape())
        while len(self._steps) < self._wanted:
            operation = choose.one_of(OPERATIONS)
            operation(self)
        last = [v for v, _ in self._values if v >= 0][-4:]
        outputs = [v for v in last if v == last[-1] or choose.chance(40)]
        count = len(self._args)

        def number(provisional: int) -> int:
            return count + provisional if provisional >= 0 else -1 - provisional

        shapes = dict(self._values)
        return Program(
            self._grid,
            tuple(self._args),
            tuple(self._sharding(a.shape) if choose.chance(80) else None for a in self._args),
            tuple(replace(s, operands=tuple(number(i) for i in s.operands)) for s in self._steps),
            tuple(number(v) for v in outputs),
            tuple(self._sharding(shapes[v]) if choose.chance(40) else None for v in outputs),
        )

    # ---- shapes and shardings ----

    def _shape(self, rank: int | None = None) -> Shape:
        if rank is None:
            rank = self._choose.one_of((1, 2, 2, 2, 3, 3, 4))
        shape = tuple(self._choose.one_of(SIZES) for _ in range(rank))
        while prod(shape) > LIMIT:
            shape = tuple(min(s, max(2, s // 2)) for s in shape)
        return shape

    def _sharding(self, shape: Shape, *, even: bool = False) -> Dims:
        axes = [name for name, _ in self._grid.axes]
        dims: list[list[str]] = [[] for _ in shape]
        while axes and shape:
            axis = axes.pop(self._choose.integer(0, len(axes) - 1))
            if self._choose.chance(70):
                dim = self._choose.integer(0, len(shape) - 1)
                parts = prod(self._grid.sizes[a] for a in (*dims[dim], axis))
                if not even or shape[dim] % parts == 0:
                    dims[dim].append(axis)
        return dims

    # ---- values ----

    def _argument(self, shape: Shape) -> int:
        return self._given(self._random.normal(size=shape).astype(np.float32), True)

    def _given(self, array: np.ndarray[Any, Any], is_float: bool = False) -> int:
        self._args.append(array)
        value = -len(self._args)
        if is_float:
            self._values.append((value, array.shape))
        return value

    def pick(self, ranks: Sequence[int] = (1, 2, 3, 4)) -> tuple[int, Shape]:
        """A recent value of such a rank; a new argument where there is none."""
        found = [v for v in self._values if len(v[1]) in ranks]
        if found:
            return self._choose.one_of(found[-6:])
        shape = self._shape(self._choose.one_of(ranks))
        return self._argument(shape), shape

    def like(self, shape: Shape) -> int:
        """A value of this shape: one that is there, or a new argument."""
        found = [v for v, own in self._values if own == shape]
        if found and self._choose.chance(70):
            return self._choose.one_of(found)
        return self._argument(shape)

    def emit(self, name: str, apply: Callable[..., Any], *operands: int) -> None:
        shapes = [self._aval(i) for i in operands]
        out = jax.eval_shape(apply, *shapes)
        if prod(out.shape) > LIMIT or 0 in out.shape or len(out.shape) > 5:
            return
        constraint = None
        if self._choose.chance(12):
            constraint = self._sharding(out.shape, even=True)
        self._values.append((len(self._steps), out.shape))
        self._steps.append(Step(name, operands, apply, constraint))

    def _aval(self, value: int) -> jax.ShapeDtypeStruct:
        if value < 0:
            array = self._args[-1 - value]
            return jax.ShapeDtypeStruct(array.shape, array.dtype)
        return jax.ShapeDtypeStruct(dict(self._values)[value], np.float32)

    def indices(self, high: int, shape: Shape) -> int:
        """Integer indices, some of them out of bounds."""
        margin = self._choose.one_of((0, 0, 3))
        array = self._random.integers(-margin, high + margin, size=shape).astype(np.int32)
        return self._given(array)

    @property
    def choose(self) -> Chooser:
        return self._choose

    def dim(self, shape: Shape) -> int:
        return self._choose.integer(0, len(shape) - 1)

    def size(self) -> int:
        return self._choose.one_of(SIZES)


Operation = Callable[[Generator], None]


def _unary(g: Generator) -> None:
    value, _ = g.pick()
    name, function = g.choose.one_of(
        [
            ("tanh", jnp.tanh),
            ("negate", jnp.negative),
            ("square_tanh", lambda a: jnp.tanh(a) ** 2),
            ("half", lambda a: a * 0.5),
            ("softmax", jax.nn.softmax),
            ("round_trip", lambda a: a.reshape(-1).reshape(a.shape)),
            ("barrier", lax.optimization_barrier),
            ("checkpoint", jax.checkpoint(lambda a: jnp.sin(a) + a)),
            ("jit", jax.jit(jnp.cos)),
            ("iota", lambda a: a + lax.broadcasted_iota(jnp.float32, a.shape, a.ndim - 1)),
            ("relu", jax.nn.relu),
            ("normalize", lambda a: (a - a.mean(0)) / (1 + a.std(0))),
        ]
    )
    g.emit(name, function, value)


def _binary(g: Generator) -> None:
    value, shape = g.pick()
    other = g.like(shape)
    name, function = g.choose.one_of(
        [
            ("add", jnp.add),
            ("add", jnp.add),
            ("subtract", jnp.subtract),
            ("multiply", lambda a, b: a * jnp.tanh(b)),
            ("maximum", jnp.maximum),
            ("where", lambda a, b: jnp.where(a > 0, a, b)),
            ("axpy", lambda a, b: 0.5 * a - b / 3),
        ]
    )
    g.emit(name, function, value, other)


def _dot(g: Generator) -> None:
    value, shape = g.pick((2, 3))
    batch = g.choose.integer(0, 1) if len(shape) == 3 else 0
    contract = g.choose.integer(batch, len(shape) - 1)
    size = shape[contract]
    other = g.like((*shape[:batch], size, g.size()))
    numbers = (((contract,), (batch,)), (tuple(range(batch)), tuple(range(batch))))
    scale = 1 / np.sqrt(size)
    g.emit(f"dot{numbers}", lambda a, b: scale * lax.dot_general(a, b, numbers), value, other)


def _dot_dot(g: Generator) -> None:
    """Sums of products: partial results that meet."""
    value, shape = g.pick((2,))
    other, third = g.like((shape[1], shape[0])), g.like((shape[1], shape[0]))
    g.emit("dots", lambda a, b, c: (a @ b - a @ c) * 0.25, value, other, third)


def _reduce(g: Generator) -> None:
    value, shape = g.pick()
    dims = tuple(d for d in range(len(shape)) if g.choose.chance(50)) or (0,)
    if len(dims) == len(shape):
        dims = dims[1:]
    name = g.choose.one_of(["mean", "max", "min", "sum", "any", "prod"])
    functions: dict[str, Callable[..., Any]] = {
        "sum": lambda a: jnp.sum(a, dims) * 0.3,
        "any": lambda a: jnp.any(a > 1, dims).astype(jnp.float32),
        "prod": lambda a: jnp.prod(jnp.tanh(a), dims),
    }
    function = functions.get(name) or (lambda a: getattr(jnp, name)(a, dims))
    g.emit(f"{name}{dims}", function, value)


def _cumulative(g: Generator) -> None:
    value, shape = g.pick()
    dim, flag = g.dim(shape), g.choose.chance(50)
    function = g.choose.one_of([lax.cumsum, lax.cummax, lax.cumlogsumexp])
    g.emit(
        f"{function.__name__}({dim}, {flag})", lambda a: function(a, axis=dim, reverse=flag), value
    )


def _sort(g: Generator) -> None:
    value, shape = g.pick()
    dim = g.dim(shape)
    g.emit(f"sort({dim})", lambda a: jnp.sort(a, dim), value)


def _reshape(g: Generator) -> None:
    value, shape = g.pick()
    total = prod(shape)
    out: list[int] = []
    for _ in range(g.choose.integer(0, 3)):
        size = g.choose.one_of([d for d in range(1, total + 1) if total % d == 0][:12])
        out.insert(g.choose.integer(0, len(out)), size)
        total //= size
    out.insert(g.choose.integer(0, len(out)), total)
    g.emit(f"reshape{out}", lambda a: a.reshape(out), value)


def _transpose(g: Generator) -> None:
    value, shape = g.pick((2, 3, 4))
    rest, order = list(range(len(shape))), []
    while rest:
        order.append(rest.pop(g.choose.integer(0, len(rest) - 1)))
    g.emit(f"transpose{order}", lambda a: a.transpose(order), value)


def _broadcast(g: Generator) -> None:
    value, shape = g.pick((1, 2, 3))
    at, size = g.choose.integer(0, len(shape)), g.size()
    out = (*shape[:at], size, *shape[at:])
    g.emit(f"broadcast{out}", lambda a: jnp.broadcast_to(jnp.expand_dims(a, at), out), value)


def _concatenate(g: Generator) -> None:
    value, shape = g.pick()
    dim = g.dim(shape)
    own = list(shape)
    own[dim] = g.choose.one_of((shape[dim], g.size()))
    other = g.like(tuple(own))
    g.emit(f"concatenate({dim})", lambda a, b: jnp.concatenate([a, b, a], dim), value, other)


def _slice(g: Generator) -> None:
    value, shape = g.pick()
    slices: list[slice] = []
    for size in shape:
        if g.choose.chance(50):
            start = g.choose.integer(0, size - 1)
            stop = g.choose.integer(start + 1, size)
            slices.append(slice(start, stop, g.choose.one_of((1, 1, 2, 3))))
        else:
            slices.append(slice(None, None, g.choose.one_of((1, 1, -1))))
    g.emit(f"slice{slices}", lambda a: a[tuple(slices)], value)


def _pad(g: Generator) -> None:
    value, shape = g.pick()
    config: list[tuple[int, int, int]] = []
    for size in shape:
        if g.choose.chance(50):
            config.append((0, 0, 0))
            continue
        low, high = g.choose.integer(-1, 3), g.choose.integer(-1, 3)
        inner = g.choose.one_of((0, 0, 1, 2))
        if size + (size - 1) * inner + low + high < 1:
            low = high = 0
        config.append((low, high, inner))
    g.emit(f"pad{config}", lambda a: lax.pad(a, np.float32(0.5), config), value)


def _roll(g: Generator) -> None:
    value, shape = g.pick()
    dim, shift = g.dim(shape), g.choose.integer(-3, 5)
    g.emit(f"roll({shift}, {dim})", lambda a: jnp.roll(a, shift, dim), value)


def _take(g: Generator) -> None:
    value, shape = g.pick((1, 2, 3))
    dim = g.dim(shape)
    mode = g.choose.one_of(["clip", "fill", "wrap"])
    index = g.indices(shape[dim], g.choose.one_of([(g.size(),), (g.size(), g.size())]))
    g.emit(
        f"take({dim}, {mode})",
        lambda a, i: jnp.take(a, i, axis=dim, mode=mode, fill_value=0.25),
        value,
        index,
    )


def _take_along(g: Generator) -> None:
    value, shape = g.pick((2, 3))
    dim = g.dim(shape)
    own = list(shape)
    own[dim] = g.size()
    index = g.indices(shape[dim], tuple(own))
    g.emit(
        f"take_along({dim})",
        lambda a, i: jnp.take_along_axis(a, i, dim, mode="clip"),
        value,
        index,
    )


def _scatter(g: Generator) -> None:
    value, shape = g.pick((1, 2, 3))
    dim = g.choose.one_of((0, 0, len(shape) - 1))
    count = g.size()
    index = g.indices(shape[dim], (count,))
    update = g.like((*shape[:dim], count, *shape[dim + 1 :]))
    name = g.choose.one_of(["add", "max", "min", "mul"])
    at = (slice(None),) * dim

    def apply(a: Any, i: Any, u: Any) -> Any:
        return getattr(a.at[(*at, i)], name)(jnp.tanh(u))

    g.emit(f"scatter_{name}({dim})", apply, value, index, update)


def _dynamic_slice(g: Generator) -> None:
    value, shape = g.pick()
    sizes = [s if g.choose.chance(50) else g.choose.integer(1, s) for s in shape]
    start = g.indices(max(shape), (len(shape),))
    g.emit(f"dynamic_slice{sizes}", lambda a, i: lax.dynamic_slice(a, list(i), sizes), value, start)


def _dynamic_update(g: Generator) -> None:
    value, shape = g.pick()
    sizes = tuple(s if g.choose.chance(50) else g.choose.integer(1, s) for s in shape)
    start = g.indices(max(shape), (len(shape),))
    update = g.like(sizes)
    g.emit(
        f"dynamic_update{sizes}",
        lambda a, u, i: lax.dynamic_update_slice(a, u, list(i)),
        value,
        update,
        start,
    )


def _scan(g: Generator) -> None:
    value, shape = g.pick((2, 3))
    carry = g.like(shape[1:])
    which = g.choose.integer(0, 2)

    def body(c: Any, x: Any) -> Any:
        c = jnp.tanh(c + x) if which else c * 0.5 + x
        return c, (c * x if which < 2 else c.sum())

    g.emit(f"scan_carry({which})", lambda a, c: lax.scan(body, c, a)[0], value, carry)
    g.emit(f"scan_stack({which})", lambda a, c: lax.scan(body, c, a)[1], value, carry)


def _accumulate(g: Generator) -> None:
    """Products summed in a loop: a carry that may be partial."""
    value, shape = g.pick((3,))
    other = g.like((shape[2], g.size()))

    def apply(a: Any, w: Any) -> Any:
        zero = jnp.zeros((a.shape[1], w.shape[1]))
        return lax.scan(lambda c, x: (c + x @ w * 0.3, None), zero, a)[0]

    g.emit("accumulate", apply, value, other)


def _fori(g: Generator) -> None:
    value, shape = g.pick((2,))
    weight = g.like((shape[1], shape[1]))
    g.emit(
        "fori",
        lambda a, w: lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w) + c[i % a.shape[0]], a),
        value,
        weight,
    )


def _cond(g: Generator) -> None:
    value, _ = g.pick()
    g.emit(
        "cond",
        lambda a: lax.cond(a.sum() > 0.37, lambda a: a * 0.5, lambda a: a - a.max(), a),
        value,
    )


def _conv(g: Generator) -> None:
    value, shape = g.pick((3,))
    taps, out = g.choose.integer(1, 4), g.size()
    kernel = g.like((taps, shape[2], out))
    stride, lhs, rhs = (g.choose.one_of((1, 1, 2)) for _ in range(3))
    low, high = g.choose.integer(0, 3), g.choose.integer(0, 3)
    span = (shape[1] - 1) * lhs + 1 + low + high
    if span < (taps - 1) * rhs + 1:
        return
    scale = 1 / np.sqrt(taps * shape[2])
    g.emit(
        f"conv(stride {stride}, pad {low},{high}, dilation {lhs},{rhs})",
        lambda x, w: scale * lax.conv_general_dilated(
            x, w, (stride,), ((low, high),), (lhs,), (rhs,), ("NWC", "WIO", "NWC")
        ),
        value,
        kernel,
    )  # fmt: skip


def _pool(g: Generator) -> None:
    value, shape = g.pick((2, 3))
    window = tuple(g.choose.integer(1, min(3, s)) for s in shape)
    strides = tuple(g.choose.integer(1, 3) for _ in shape)
    padding = g.choose.one_of(["SAME", "VALID"])
    init, function = g.choose.one_of([(-np.inf, lax.max), (0.0, lax.add)])
    g.emit(
        f"pool({window}, {strides}, {padding}, {init})",
        lambda a: 0.5 * lax.reduce_window(a, np.float32(init), function, window, strides, padding),
        value,
    )


def _grad(g: Generator) -> None:
    """The gradient of a small layer by its weights."""
    value, shape = g.pick((2, 3))
    weight = g.like((shape[-1], g.size()))

    def apply(a: Any, w: Any) -> Any:
        return jax.grad(lambda w: jnp.mean(jax.nn.log_softmax(jnp.tanh(a) @ w)))(w)

    g.emit("grad", apply, value, weight)


def _embedding_grad(g: Generator) -> None:
    value, shape = g.pick((2,))
    index = g.indices(shape[0], (g.size(), 3))
    g.emit(
        "embedding_grad",
        lambda t, i: jax.grad(lambda t: jnp.mean(jnp.sin(t[i])))(t) * 5,
        value,
        index,
    )


def _vmap(g: Generator) -> None:
    value, shape = g.pick((2, 3))
    start = g.indices(shape[1], (shape[0],))
    size = g.choose.integer(1, shape[1])
    g.emit(
        f"vmap_slice({size})",
        jax.vmap(lambda a, i: lax.dynamic_slice_in_dim(a, i, size)),
        value,
        start,
    )


OPERATIONS: tuple[Operation, ...] = (
    _unary, _unary, _binary, _binary, _binary, _dot, _dot, _dot, _dot_dot, _reduce, _reduce,
    _cumulative, _sort, _reshape, _reshape, _reshape, _transpose, _broadcast, _concatenate,
    _concatenate, _slice, _slice, _pad, _roll, _take, _take, _take_along, _scatter, _scatter,
    _dynamic_slice, _dynamic_update, _scan, _accumulate, _fori, _cond, _conv, _pool, _grad,
    _embedding_grad, _vmap,
)  # fmt: skip
