"""Propagation of lowered JAX programs against Shardy's: training steps, loops, shard_map.

Programs are lowered for an abstract mesh (no devices needed), calls inlined and chlo legalised for
both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from .shardy import parse
from .test_propagation_vs_shardy import check

jax = pytest.importorskip("jax")
jnp: Any = jax.numpy
lax: Any = jax.lax
P: Any = jax.sharding.PartitionSpec
MESH: Any = jax.sharding.AbstractMesh(
    (2, 4), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2
)

Spec = Sequence[Any] | None
"""Axes of the dimensions; None: not annotated."""


def spec(*axes: Any) -> Any:
    return jax.sharding.NamedSharding(MESH, P(*axes))


def array(shape: tuple[int, ...], axes: Spec = (), dtype: Any = None) -> Any:
    return jax.ShapeDtypeStruct(
        shape, dtype or jnp.float32, sharding=None if axes is None else spec(*axes)
    )


def check_program(function: Callable[..., Any], *args: Any, **jit_options: Any) -> None:
    from autopar.lowering.exporter import export_module
    from autopar.lowering.importer import import_module
    from autopar.passes.importing.inline import inline

    low = jax.jit(function, **jit_options).trace(*args).lower(lowering_platforms=("cpu",))
    module = import_module(parse(low.as_text()))
    inline(module)
    check(str(export_module(module)))


def constrain(x: Any, *axes: Any) -> Any:
    return lax.with_sharding_constraint(x, spec(*axes))


def mlp_step(params: Any, x: Any, y: Any) -> Any:
    def loss(params: Any) -> Any:
        h = x
        for w, b in params[:-1]:
            h = jax.nn.gelu(h @ w + b)
        w, b = params[-1]
        return jnp.mean((h @ w + b - y) ** 2)

    value, gradients = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients), value


MLP_SHARDINGS: dict[str, list[tuple[Spec, Spec]]] = {
    "dp": [((), ()), ((), ()), ((), ())],
    "tp": [((None, "model"), ("model",)), (("model",), ()), ((), ())],
    "zero": [(("data",), ("data",)), (("data",), ("data",)), (("data",), ())],
    "open": [(None, None), ((None, "model"), None), (None, None)],
}


@pytest.mark.parametrize("name", MLP_SHARDINGS)
def test_mlp(name: str) -> None:
    sizes = [(16, 64), (64, 32), (32, 8)]
    params = [
        (array(shape, w), array(shape[1:], b))
        for shape, (w, b) in zip(sizes, MLP_SHARDINGS[name], strict=True)
    ]
    check_program(mlp_step, params, array((32, 16), ("data",)), array((32, 8), ("data",)))


def gpt_step(layers: int) -> tuple[Callable[..., Any], dict[str, tuple[int, ...]]]:
    width, heads, vocabulary = 32, 4, 64
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, width)}
    for layer in range(layers):
        shapes |= {
            f"{layer}.qkv": (width, 3, heads, width // heads),
            f"{layer}.out": (heads, width // heads, width),
            f"{layer}.up": (width, 4 * width),
            f"{layer}.down": (4 * width, width),
            f"{layer}.norm": (width,),
        }

    def norm(x: Any, scale: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6) * scale

    def forward(p: Any, tokens: Any, targets: Any) -> Any:
        x = p["embed"][tokens]
        mask = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        for layer in range(layers):
            q, k, v = jnp.moveaxis(
                jnp.einsum("bsd,dche->bsche", norm(x, p[f"{layer}.norm"]), p[f"{layer}.qkv"]),
                2,
                0,
            )
            scores = jnp.einsum("bqhe,bkhe->bhqk", q, k)
            weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
            x = x + jnp.einsum(
                "bqhe,hed->bqd", jnp.einsum("bhqk,bkhe->bqhe", weights, v), p[f"{layer}.out"]
            )
            x = x + jax.nn.gelu(x @ p[f"{layer}.up"]) @ p[f"{layer}.down"]
        logits = x @ p["embed"].T
        losses = -jax.nn.log_softmax(logits)[..., None]
        return jnp.take_along_axis(losses[..., 0], targets[..., None], -1).mean()

    def step(p: Any, m: Any, v: Any, tokens: Any, targets: Any) -> Any:
        loss, g = jax.value_and_grad(forward)(p, tokens, targets)
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b * b, v, g)
        return jax.tree.map(lambda a, b, c: a - b / (jnp.sqrt(c) + 1e-8), p, m, v), m, v, loss

    return step, shapes


def gpt_axes(method: str, name: str, shape: tuple[int, ...]) -> Spec:
    part = name.split(".")[-1]
    tensor = {
        "qkv": (None, None, "model"),
        "out": ("model",),
        "up": (None, "model"),
        "down": ("model",),
        "embed": ("model",),
    }
    if method == "tp" or method == "2d":
        return tensor.get(part, ())
    if method == "zero":
        return ("data",)
    if method == "fsdp_2d":
        return (("data", "model"),) if shape[0] % 8 == 0 else ()
    return ()


@pytest.mark.parametrize("method", ["dp", "tp", "2d", "zero", "fsdp_2d"])
def test_gpt(method: str) -> None:
    step, shapes = gpt_step(2)
    params = {name: array(s, gpt_axes(method, name, s)) for name, s in shapes.items()}
    moments = {
        name: array(s, ("data",) if method == "zero" else gpt_axes(method, name, s))
        for name, s in shapes.items()
    }
    batch = () if method == "tp" else ("data",)
    tokens = array((8, 16), batch, jnp.int32)
    check_program(step, params, moments, moments, tokens, tokens)


def test_scan_with_checkpoint() -> None:
    def loss(ws: Any, x: Any) -> Any:
        def body(carry: Any, w: Any) -> Any:
            return jnp.tanh(carry @ w), None

        return (lax.scan(jax.checkpoint(body), x, ws)[0] ** 2).sum()

    check_program(
        jax.grad(loss), array((6, 64, 64), (None, None, "model")), array((16, 64), ("data",))
    )


@pytest.mark.parametrize(
    "image, kernel",
    [
        (("data",), ()),
        (("data",), (None, None, None, "model")),
        ((None, "data", "model"), ()),
        (("data",), (None, None, "model")),
    ],
)
def test_resnet(image: Spec, kernel: Spec) -> None:
    def conv(x: Any, k: Any, stride: int) -> Any:
        return lax.conv_general_dilated(
            x, k, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(x: Any) -> Any:
        mean = x.mean((0, 1, 2))
        return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5)

    def loss(p: Any, x: Any) -> Any:
        y = jax.nn.relu(norm(conv(x, p[0], 2)))
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        z = norm(conv(jax.nn.relu(norm(conv(y, p[1], 1))), p[2], 1))
        return ((jax.nn.relu(y + z).mean((1, 2)) @ p[3]) ** 2).mean()

    params = [
        array((7, 7, 3, 16)),
        array((3, 3, 16, 16), kernel),
        array((3, 3, 16, 16)),
        array((16, 10)),
    ]
    check_program(jax.grad(loss), params, array((8, 32, 32, 3), image))


def test_mixture_of_experts() -> None:
    def loss(up: Any, down: Any, gate: Any, x: Any) -> Any:
        values, experts = lax.top_k(jax.nn.softmax(x @ gate), 2)
        dispatch = jax.nn.one_hot(experts, 8)
        h = jnp.einsum("tke,td->ekd", dispatch, x)
        h = jnp.einsum("ekf,efd->ekd", jax.nn.relu(jnp.einsum("ekd,edf->ekf", h, up)), down)
        return (jnp.einsum("tke,ekd->td", dispatch * values[..., None], h) ** 2).sum()

    check_program(
        jax.grad(loss, argnums=(0, 1, 2)),
        array((8, 16, 32), ("model",)),
        array((8, 32, 16), ("model",)),
        array((16, 8)),
        array((64, 16), ("data",)),
    )


@pytest.mark.parametrize("x", [None, ("data",), (None, "model")])
@pytest.mark.parametrize("w", [None, ("model",)])
def test_shard_map(x: Spec, w: Spec) -> None:
    def full(a: Any, b: Any) -> Any:
        return lax.psum(a @ b, "model")

    def partly(a: Any, b: Any) -> Any:
        return jnp.tanh(a @ b) @ b.T

    def function(x: Any, w: Any) -> Any:
        y = jax.shard_map(
            full, mesh=MESH, in_specs=(P("data", "model"), P("model")), out_specs=P("data")
        )(jnp.cos(x), w)
        z = jax.shard_map(
            partly, mesh=MESH, in_specs=(P("data"), P()), out_specs=P("data"), axis_names={"data"}
        )(jnp.sin(x), w)
        return jnp.sin(y), jnp.cos(z)

    check_program(function, array((8, 16), x), array((16, 4), w))


def test_constraints_and_branches() -> None:
    def function(p: Any, x: Any, y: Any) -> Any:
        x = constrain(constrain(jnp.sin(x), "data"), None, "model") + x
        return lax.cond(
            p > 0, lambda a, b: a @ b.T, lambda a, b: (a - b) @ a.T, x, constrain(y, None, "model")
        )

    check_program(function, array((), ()), array((8, 16), None), array((8, 16), ("data",)))


def test_embedding_gradient() -> None:
    def loss(table: Any, tokens: Any) -> Any:
        return (jnp.tanh(constrain(table[tokens], "data", None, "model")) ** 2).sum()

    check_program(jax.grad(loss), array((96, 16), ("model",)), array((8, 6), ("data",), jnp.int32))


def test_rare_ops() -> None:
    def function(key: Any, x: Any) -> Any:
        return (
            x * jax.random.bernoulli(key, 0.9, x.shape),
            jnp.sort(x, 1),
            jnp.argmax(x, 1),
            jnp.cumsum(x, 0),
            x[::-1],
            jnp.roll(x, 1, 0),
            jnp.concatenate([x, x[:, :4]], 1),
        )

    check_program(function, array((2,), None, jnp.uint32), array((8, 16), ("data", "model")))


def test_result_shardings() -> None:
    check_program(
        lambda x, w: (x @ w, w.T),
        array((8, 16), None),
        array((16, 4), None),
        out_shardings=(spec("data", "model"), spec(None, "data")),
    )
