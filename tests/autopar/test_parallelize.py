"""`autopar.parallelize`: arguments, shardings, meshes, donation, effects, transformations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import autopar

DEVICES = np.array(autopar.local_devices()[:8])
MESH = Mesh(DEVICES.reshape(2, 4), ("data", "model"))
FLAT = Mesh(DEVICES, ("x",))
RNG = np.random.default_rng(0)
PARAMS = {
    "a": RNG.normal(size=(16, 32)).astype(np.float32),
    "b": RNG.normal(size=(32, 8)).astype(np.float32),
}
X = RNG.normal(size=(16, 16)).astype(np.float32)


def step(params: Any, x: Any) -> Any:
    def loss(params: Any) -> Any:
        return jnp.mean((jnp.tanh(x @ params["a"]) @ params["b"]) ** 2)

    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def named(*spec: Any, mesh: Mesh = MESH) -> NamedSharding:
    return NamedSharding(mesh, P(*spec))


def close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5),
        found,
        expected,
    )


def programs(function: Any) -> int:
    return sum(len(found) for found in function._cache.values())


def fresh() -> Any:
    return jax.tree.map(jnp.asarray, PARAMS)


EXPECTED = jax.jit(step)(PARAMS, X)


# ---- shardings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", autopar.method_names())
def test_given_shardings_bind(method: str) -> None:
    function = autopar.parallelize(
        step,
        method=method,
        mesh=MESH,
        in_shardings=({"a": P(None, "model"), "b": None}, named("data")),
        out_shardings=(named(), None),
    )
    result = function(PARAMS, X)
    close(result, EXPECTED)
    program = function.get_last_executable()
    (params, x), kwargs = program.input_shardings
    assert params["a"] == named(None, "model") and x == named("data") and kwargs == {}
    assert all(leaf.sharding == named() for leaf in jax.tree.leaves(result[0]))
    assert program.output_shardings[0]["a"].mesh is MESH


def test_sharded_arguments_are_followed() -> None:
    params = jax.device_put(PARAMS, {"a": named(None, "model"), "b": named("model")})
    function = autopar.parallelize(step, method="shard")
    result = function(params, jax.device_put(X, named("data")))
    close(result, EXPECTED)
    assert result[0]["a"].sharding == named(None, "model")
    assert result[0]["a"].sharding.mesh is MESH
    function(result[0], jax.device_put(X, named("data")))
    assert programs(function) == 1


def test_other_shardings_compile_anew() -> None:
    function = autopar.parallelize(step, method="shard")
    for spec in (named("data"), named("model"), named("data")):
        close(function(PARAMS, jax.device_put(X, spec)), EXPECTED)
        assert function.get_last_executable().input_shardings[0][1] == spec
    assert programs(function) == 2


def test_device_put_inside_is_a_constraint() -> None:
    def inside(params: Any, x: Any) -> Any:
        x = jax.device_put(x, named("data"))
        return step({"a": jax.device_put(params["a"], named(None, "model")), "b": params["b"]}, x)

    function = autopar.parallelize(inside, method="shard")
    result = function(PARAMS, X)
    close(result, EXPECTED)
    assert result[0]["a"].sharding == named(None, "model")


@pytest.mark.parametrize("method", ["shard", "dp"])
def test_partition_specs_mean_the_ambient_mesh(method: str) -> None:
    def inside(params: Any, x: Any) -> Any:
        a = jax.lax.with_sharding_constraint(params["a"], P(None, "model"))
        return step({"a": a, "b": params["b"]}, x)

    with jax.set_mesh(MESH):
        ambient = autopar.parallelize(inside, method=method)(PARAMS, X)
    given = autopar.parallelize(inside, method=method, mesh=MESH)(PARAMS, X)
    for result in (ambient, given):
        close(result, EXPECTED)
        assert result[0]["a"].sharding == named(None, "model")


def test_shard_map_inside() -> None:
    @partial(
        jax.shard_map,
        mesh=MESH,
        in_specs=(P(None, "model"), P("model", None), P("data", None)),
        out_specs=P("data", None),
    )
    def layer(a: Any, b: Any, x: Any) -> Any:
        return jax.lax.psum(jnp.tanh(x @ a) @ b, "model")

    def inside(params: Any, x: Any) -> Any:
        return jnp.mean(layer(params["a"], params["b"], x) ** 2)

    close(autopar.parallelize(inside, method="shard")(PARAMS, X), EXPECTED[1])


def test_shard_map_over_some_axes() -> None:
    layer = jax.shard_map(
        lambda a, x: jax.lax.psum(x @ a, "model"),
        mesh=MESH,
        in_specs=(P("model", None), P(None, "model")),
        out_specs=P(),
        axis_names={"model"},
    )

    def inside(params: Any, x: Any) -> Any:
        return jnp.mean(layer(params["a"], x) ** 2)

    function = autopar.parallelize(inside, method="shard", in_shardings=(None, named("data")))
    close(function(PARAMS, X), jax.jit(inside)(PARAMS, X))


def test_jit_with_shardings_inside() -> None:
    layer = jax.jit(
        lambda x, a: jnp.tanh(x @ a),
        in_shardings=(named("data"), named(None, "model")),
        out_shardings=named("data", "model"),
    )
    function = autopar.parallelize(lambda p, x: jnp.sum(layer(x, p["a"])), method="shard")
    close(function(PARAMS, X), jnp.sum(jnp.tanh(X @ PARAMS["a"])))
    assert function.plan.shardings()["p['a']"] == "[-, model]"


@custom_partitioning
def custom_matmul(a: Any, b: Any) -> Any:
    return a @ b


def refuse(*args: Any) -> Any:
    raise AssertionError("XLA's partitioner has no part in this")


custom_matmul.def_partition(
    partition=refuse,
    infer_sharding_from_operands=refuse,
    sharding_rule="i j, j k -> i k",
    need_replication_factors=("j",),
)


@pytest.mark.parametrize(
    "specs", [(P("data", "model"), P("model")), (P("data"), P(None, "model")), (P(), P()), None]
)
def test_custom_partitioning(specs: Any) -> None:
    x, w = np.asarray(jax.random.normal(jax.random.key(0), (16, 8))), np.ones((8, 4), np.float32)
    wrapped: Any = autopar.parallelize(
        lambda x, w: jnp.tanh(custom_matmul(x, w)),
        method="dp" if specs is None else "shard",
        mesh=MESH,
        in_shardings=specs,
        batch_argnums=0 if specs is None else None,
    )
    close(wrapped(x, w), np.tanh(x @ w))


def test_permuted_devices() -> None:
    mesh = Mesh(DEVICES[::-1].reshape(2, 4), ("data", "model"))
    function = autopar.parallelize(
        step, method="shard", in_shardings=(None, named("data", mesh=mesh))
    )
    result = function(PARAMS, X)
    close(result, EXPECTED)
    assert result[1].sharding.mesh is mesh
    rows = autopar.parallelize(lambda x: x * 2, mesh=mesh, in_shardings=P("data"), method="shard")
    placed = rows(X)
    close(placed, X * 2)
    assert placed.sharding == named("data", mesh=mesh)


def test_explicit_axes() -> None:
    mesh = jax.make_mesh((2, 4), ("data", "model"), devices=DEVICES)

    def typed(params: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            hidden = jnp.tanh(x @ params["a"])
            out = jnp.einsum("bh,ho->bo", hidden, params["b"], out_sharding=P("data", None))
            return jnp.mean(out**2)

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    with jax.set_mesh(mesh):
        layout = {"a": named(None, "model", mesh=mesh), "b": named("model", mesh=mesh)}
        params = jax.device_put(PARAMS, layout)
        x = jax.device_put(X, named("data", mesh=mesh))
        function = autopar.parallelize(typed, method="shard")
        result = function(params, x)
        close(result, EXPECTED)
        assert jax.typeof(result[0]["a"]) == jax.typeof(params["a"])
        function(result[0], x)
        assert programs(function) == 1
        close(autopar.parallelize(step, method="dp")(PARAMS, X), EXPECTED)


def test_several_meshes() -> None:
    def inside(params: Any, x: Any) -> Any:
        x = jax.lax.with_sharding_constraint(x, named("x", mesh=FLAT))
        params = jax.lax.with_sharding_constraint(params, named(None, "model"))
        return step(params, x)

    result = autopar.parallelize(inside, method="shard")(PARAMS, X)
    close(result, EXPECTED)
    assert result[0]["a"].sharding == named(None, "model")


def test_axes_of_size_one() -> None:
    mesh = Mesh(DEVICES.reshape(1, 8, 1), ("pod", "data", "model"))
    function = autopar.parallelize(
        step,
        method="shard",
        in_shardings=({"a": P(None, "model"), "b": P("pod")}, P("data")),
        mesh=mesh,
    )
    close(function(PARAMS, X), EXPECTED)
    result = autopar.parallelize(step, method="zero3", mesh=mesh)(PARAMS, X)
    close(result, EXPECTED)
    assert result[0]["a"].sharding == NamedSharding(mesh, P(None, "data"))


@pytest.mark.parametrize(
    "method", [autopar.DataParallel, autopar.Zero2Parallel, autopar.Zero3Parallel]
)
def test_batch_axis(method: Callable[..., Any]) -> None:
    function = autopar.parallelize(step, method=method(batch_axis="data"), mesh=(2, 4))
    close(function(PARAMS, X), EXPECTED)
    assert function.get_last_executable().input_shardings[0][1].spec == P("data")
    whole = autopar.parallelize(step, method=method(), mesh=(2, 4))
    close(whole(PARAMS, X), EXPECTED)
    assert whole.get_last_executable().input_shardings[0][1].spec == P(("data", "model"))


# ---- arguments -----------------------------------------------------------------------------------


def test_scalars_do_not_recompile() -> None:
    function = autopar.parallelize(lambda x, s: x * s, method="dp", batch_argnums=0)
    for value in (1.0, 0.5, 2.5):
        close(function(X, value), X * value)
    assert programs(function) == 1


def test_weak_types_are_kept() -> None:
    def scaled(x: Any, s: Any) -> Any:
        return x.astype(jnp.bfloat16) * s

    function = autopar.parallelize(scaled, method="dp", batch_argnums=0)
    for scale in (2.0, 2, np.float32(2), jnp.float32(2), jnp.asarray(2.0)):
        assert function(X, scale).dtype == jax.jit(scaled)(X, scale).dtype
    twice = autopar.parallelize(lambda x, s: (x * s, s * 2), method="dp", batch_argnums=0)
    assert [result.weak_type for result in twice(X, 0.5)] == [False, True]


def test_numpy_is_canonicalized() -> None:
    function = autopar.parallelize(lambda x, n: (x * 2, n + 1), method="dp")
    doubled, counted = function(X.astype(np.float64), np.arange(16))
    assert doubled.dtype == jnp.float32 and counted.dtype == jnp.int32


def test_static_arguments_and_keywords() -> None:
    def scaled(params: Any, x: Any, scale: Any = 1.0, *, mode: str = "train") -> Any:
        return step(params, x * scale) if mode == "train" else jnp.float32(3)

    function = autopar.parallelize(
        scaled, method="dp", static_argnames="mode", batch_argnums=1, donate_argnums=()
    )
    close(function(PARAMS, X), EXPECTED)
    close(function(PARAMS, x=X), EXPECTED)
    assert function.get_last_executable().input_shardings[1]["x"].spec == P("data")
    close(function(PARAMS, X, 2.0), jax.jit(step)(PARAMS, 2 * X))
    assert float(function(PARAMS, X, mode="eval")) == 3
    count = programs(function)
    function(PARAMS, X, 5.0)
    assert programs(function) == count


def test_keys() -> None:
    def noisy(params: Any, key: Any, x: Any) -> Any:
        key, used = jax.random.split(key)
        new, value = step(params, x * jax.random.bernoulli(used, 0.5, x.shape))
        return new, key, value

    function = autopar.parallelize(noisy, method="dp", donate_argnums=(0, 1))
    expected = jax.jit(noisy)
    key = jax.random.key(3)
    params = PARAMS
    ours, ours_key = fresh(), jax.random.key(3)
    for _ in range(3):
        params, key, value = expected(params, key, X)
        ours, ours_key, found = function(ours, ours_key, X)
        close((ours, found), (params, value))
    assert ours_key.dtype == key.dtype
    assert (jax.random.key_data(ours_key) == jax.random.key_data(key)).all()
    assert programs(function) == 1


def test_zero2_returns_whole_parameters_without_donation() -> None:
    optimizer = optax.adam(1e-2)

    def step(params: Any, state: Any, x: Any) -> Any:
        gradients = jax.grad(lambda p: jnp.mean((x @ p) ** 2))(params)
        updates, state = optimizer.update(gradients, state)
        return state, optax.apply_updates(params, updates)

    params = jnp.ones((32, 32))
    state = optimizer.init(params)
    parallel = autopar.parallelize(step, method="zero2", batch_argnums=2)
    state, params = parallel(params, state, jnp.ones((16, 32)))
    assert params.sharding.is_fully_replicated
    assert not state[0].mu.sharding.is_fully_replicated


def test_labels_of_a_parameters_shape_are_batch() -> None:
    def step(w: Any, x: Any, y: Any) -> Any:
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x @ w - y) ** 2))(w)
        return w - 0.1 * gradient, loss

    arrays = jnp.ones((16, 8)), jnp.ones((16, 16)), jnp.zeros((16, 8))
    lowered = autopar.parallelize(step, method="dp").lower(*arrays)
    assert [value.kind for value in lowered.plan.arguments] == ["parameter", "batch", "batch"]
    split = autopar.parallelize(step, method="dp", num_micro_batches=2)
    np.testing.assert_allclose(split(*arrays)[0], step(*arrays)[0], rtol=1e-6)


def test_donated_buffers_follow_the_pytree() -> None:
    """Results of equal shapes in another order than the arguments: each keeps its own layout."""

    def step(params: Any, momentum: Any, x: Any) -> Any:
        gradient = jax.grad(lambda p: jnp.mean((x @ p["w"]) ** 2))(params)
        momentum = {"m": 0.9 * momentum["m"] + gradient["w"]}
        return momentum, {"w": params["w"] - momentum["m"]}

    parallel = autopar.parallelize(step, method="zero2", donate_argnums=(0, 1), batch_argnums=2)
    state = {"w": jnp.ones((32, 32))}, {"m": jnp.zeros((32, 32))}
    momentum, params = parallel(*state, jnp.ones((16, 32)))
    assert params["w"].sharding.is_fully_replicated
    assert not momentum["m"].sharding.is_fully_replicated


def test_none_and_empty_trees() -> None:
    def odd(tree: Any, nothing: Any, empty: Any, x: Any) -> Any:
        return {**tree, "sum": jnp.sum(x)}, nothing, empty

    function = autopar.parallelize(odd, method="dp")
    result, nothing, empty = function({"n": None, "w": jnp.ones((4, 4))}, None, (), X)
    assert result["n"] is None and nothing is None and empty == ()
    assert autopar.parallelize(lambda: jnp.arange(8), method="dp")().shape == (8,)


def test_methods_partials_and_callables() -> None:
    class Model:
        factor = 3.0

        @partial(autopar.parallelize, method="dp", static_argnums=0, batch_argnums=1)
        def decorated(self, x: Any) -> Any:
            return x * self.factor

        def method(self, x: Any) -> Any:
            return x * self.factor

        def __call__(self, x: Any) -> Any:
            return x * self.factor

    model = Model()
    close(model.decorated(X), 3 * X)
    assert "x, dimension 0" in str(model.decorated.lower(X).plan)
    for function in (model.method, model, partial(lambda f, x: f * x, 3.0)):
        close(autopar.parallelize(function, method="dp", batch_argnums=0)(X), 3 * X)


def test_lower_without_arrays() -> None:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (PARAMS, X))
    function = autopar.parallelize(step, method="zero3")
    lowered = function.lower(*shapes)
    assert "stablehlo.dot_general" in lowered.as_text()
    assert "shard.all_gather" in lowered.as_text("spmd")
    program = function.get_executable(*shapes)
    assert function.get_last_executable() is program
    close(program(*function.preshard_dynamic_args(PARAMS, X)), EXPECTED)
    assert function.get_last_executable() is program
    assert program.cost_analysis() and "HloModule" in program.as_text()
    assert program.memory_analysis().argument_size_in_bytes > 0
    autopar.clear_executable_cache()
    assert function.get_last_executable() is None and programs(function) == 0


def test_shapes_that_change_compile_anew() -> None:
    function = autopar.parallelize(step, method="dp", batch_argnums=1)
    for rows in (16, 8, 7, 16, 8):
        close(function(PARAMS, X[:rows]), jax.jit(step)(PARAMS, X[:rows]))
    assert programs(function) == 3


def test_under_transformations() -> None:
    def total(x: Any) -> Any:
        return jnp.sum(x**2)

    function = autopar.parallelize(total, method="dp")
    close(jax.grad(function)(X), 2 * X)
    close(jax.vmap(function)(X), (X**2).sum(1))
    close(jax.jit(lambda x: function(x) + 1)(X), total(X) + 1)
    inner = autopar.parallelize(lambda p, x: jnp.tanh(x @ p["a"]), method="shard")
    outer = autopar.parallelize(lambda p, x: jnp.sum(inner(p, x)), method="dp", batch_argnums=1)
    close(outer(PARAMS, X), jnp.sum(jnp.tanh(X @ PARAMS["a"])))


# ---- donation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("donated", [0, "auto"])
def test_donated_arguments_are_freed(donated: Any) -> None:
    function = autopar.parallelize(step, method="zero2", donate_argnums=donated)
    params = fresh()
    for _ in range(2):
        new, _ = function(params, X)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
        params = new


def test_an_array_donated_and_passed_twice_is_refused() -> None:
    wrapped = autopar.parallelize(lambda w, x: (w + x.sum(), w * 2), method="dp", donate_argnums=0)
    array = jnp.ones((16, 8))
    for _ in range(2):
        with pytest.raises(ValueError, match="w is donated, and the same array is passed as x"):
            wrapped(array, array)
    close(wrapped(array, jnp.copy(array))[0], np.full((16, 8), 129.0))


def test_donation_without_a_result_frees() -> None:
    function = autopar.parallelize(
        lambda a, b: jnp.sum(a @ b), method="dp", donate_argnums=(0, 1), batch_argnums=0
    )
    a, b = jnp.ones((16, 8)), jnp.ones((8, 4))
    assert float(function(a, b)) == 16 * 8 * 4
    assert a.is_deleted() and b.is_deleted()


def test_shard_map_beside_parts_of_its_axes() -> None:
    """Two heads over an axis of four make a sub-axis of it; the shard_map names the whole one."""
    mesh = MESH

    def mixed(params: Any, x: Any) -> Any:
        heads = jnp.tanh((x @ params["a"]).reshape(16, 2, 16).transpose(1, 0, 2)).sum(0)
        spec = P("data", "model")
        local = jax.shard_map(lambda v: 2 * v, mesh=mesh, in_specs=spec, out_specs=spec)
        return heads, local(x @ params["a"])

    params = {"a": jax.device_put(PARAMS["a"], NamedSharding(mesh, P(None, "model")))}
    x = jax.device_put(X, NamedSharding(mesh, P("data")))
    function = autopar.parallelize(mixed, method="shard")
    assert '"model:(1)2"' in function.lower(params, x).as_text("spmd")
    close(function(params, x), jax.jit(mixed)(params, x))


# ---- effects -------------------------------------------------------------------------------------


def test_callbacks_run_once_with_full_values() -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[[Any], None]:
        return lambda value: seen.append((name, value.shape))

    def noisy(params: Any, x: Any) -> Any:
        jax.debug.callback(note("top"), x)
        doubled = jax.pure_callback(
            lambda v: 2 * np.asarray(v), jax.ShapeDtypeStruct(x.shape, x.dtype), x
        )
        total = io_callback(lambda v: np.float32(v.sum()), jax.ShapeDtypeStruct((), jnp.float32), x)

        def body(carry: Any, row: Any) -> Any:
            jax.debug.callback(note("loop"), row)
            return carry + row.sum(), None

        def loss(params: Any) -> Any:
            jax.debug.callback(note("grad"), params["a"])
            return jnp.mean((x @ params["a"]) ** 2)

        carry, _ = jax.lax.scan(body, 0.0, x.reshape(2, -1))
        return jax.value_and_grad(loss)(params), doubled, total, carry

    function = autopar.parallelize(noisy, method="zero3", batch_argnums=1)
    result = function(PARAMS, X)
    jax.effects_barrier()
    assert sorted(seen) == [
        ("grad", (16, 32)),
        ("loop", (128,)),
        ("loop", (128,)),
        ("top", (16, 16)),
    ]
    close(result, jax.jit(noisy)(PARAMS, X))


def test_numbers_of_the_device_generator_are_the_same_everywhere() -> None:
    def noisy(params: Any, x: Any) -> Any:
        noise = jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), (5,))
        return noise, jnp.mean(x @ params["a"])

    noise, _ = autopar.parallelize(noisy, method="dp", batch_argnums=1)(PARAMS, X)
    first, *others = [np.asarray(shard.data) for shard in noise.addressable_shards]
    assert len(others) == len(DEVICES) - 1 and 0 < first.min() < first.max() < 1
    for other in others:
        np.testing.assert_array_equal(first, other)


def over_all(body: Callable[[Any], Any], mesh: Mesh = FLAT, axes: frozenset[str] = frozenset()):
    """`body` on the parts of a vector along the first axis; `axes`: those that are manual."""
    spec = P(mesh.axis_names[0])
    return jax.shard_map(
        body, mesh=mesh, in_specs=spec, out_specs=spec, axis_names=axes, check_vma=False
    )


def test_callbacks_in_shard_map_run_on_every_device() -> None:
    """Each has its own values, and runs as often as its own loop says."""
    x, seen = np.arange(16, dtype=np.float32), list[Any]()

    def body(x: Any) -> Any:
        jax.debug.callback(lambda v: seen.append(np.asarray(v).tolist()), x)
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        tens = jax.pure_callback(lambda v: 10 * np.asarray(v), like, x)
        count = jax.lax.axis_index("x") + 1
        return tens + jax.lax.fori_loop(
            0, count, lambda i, c: jax.pure_callback(lambda v: np.asarray(v) + 1, like, c), x
        )

    result = autopar.parallelize(over_all(body), method="shard")(x)
    jax.effects_barrier()
    assert sorted(seen) == x.reshape(8, 2).tolist()
    seen.clear()
    np.testing.assert_array_equal(result, jax.jit(over_all(body))(x))


def test_numbers_in_shard_map_are_each_devices_own() -> None:
    """Those along axes that are not manual are the same."""

    def body(x: Any) -> Any:
        return x + jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), x.shape)

    zeros = np.zeros(16, np.float32)
    numbers = autopar.parallelize(over_all(body), method="shard")(zeros)
    assert len(set(np.asarray(numbers).tolist())) == 16
    some = over_all(body, MESH, frozenset({"data"}))
    numbers = autopar.parallelize(some, method="shard", mesh=MESH)(zeros)
    assert len(set(np.asarray(numbers).tolist())) == 16
    parts = {tuple(np.asarray(shard.data).tolist()) for shard in numbers.addressable_shards}
    assert len(parts) == 2


def test_bits_of_what_a_callback_returns() -> None:
    bits = np.array([-0.0, 0.0, np.nan, -np.inf, 1e-40], np.float32)
    bits[2:3].view(np.int32)[:] |= 5
    for dtype in (np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn):
        given = bits.astype(dtype)

        def returned(x: Any, given: Any = given) -> Any:
            return jax.pure_callback(
                lambda _: given, jax.ShapeDtypeStruct(given.shape, given.dtype), x
            )

        result = autopar.parallelize(returned, method="dp", batch_argnums=())(X)
        assert np.asarray(result).tobytes() == given.tobytes(), dtype


@pytest.mark.parametrize("kind", ["pure", "io", "debug"])
def test_what_a_callback_raises_reaches_the_caller(kind: str) -> None:
    failing, later = [True], list[Any]()

    def call(value: Any) -> Any:
        if failing[0]:
            raise LookupError("no such token")
        return 2 * np.asarray(value)

    def loss(params: Any, x: Any) -> Any:
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        match kind:
            case "pure":
                x = jax.pure_callback(call, like, x)
            case "io":
                x = io_callback(call, like, x)
            case _:
                jax.debug.callback(call, x)
        value = jnp.mean((x @ params["a"]) ** 2)
        jax.debug.callback(later.append, value)
        return value

    function = autopar.parallelize(loss, method="dp", batch_argnums=1)
    with pytest.raises(LookupError, match="no such token"):
        function(PARAMS, X)
    if kind != "debug":
        assert not later, "called with what stands for the failed callback's value"
    failing[0] = False
    result = function(PARAMS, X)
    close(result, jax.jit(loss)(PARAMS, X))


UNAWAITED = """
import autopar
autopar.init(devices=8)
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

def step(params, x):
    loss, grad = jax.value_and_grad(lambda p: jnp.mean(jnp.tanh(x @ p) ** 2))(params)
    return params - 0.1 * grad, loss

function = autopar.parallelize(step, method=METHOD, batch_argnums=1, donate_argnums=DONATE)
mesh = Mesh(np.array(jax.devices()), ("data",))
y = jax.device_put(np.ones((64, 64), np.float32), NamedSharding(mesh, P("data")))
other = jax.jit(lambda y: jnp.sum(jnp.sin(y) @ y.T))
params, x, kept = jnp.ones((128, 128)) / 128, np.ones((256, 128), np.float32), []
for number in range(200):
    params, loss = function(params, x)
    if number % 4 == 0:
        kept.append(other(y))
jax.block_until_ready((params, kept))
print("loss", float(loss))
"""


@pytest.mark.parametrize(("method", "donate"), [("dp", "()"), ("zero3", "0")])
def test_runs_that_nobody_awaits_do_not_deadlock(method: str, donate: str) -> None:
    code = UNAWAITED.replace("METHOD", repr(method)).replace("DONATE", donate)
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0 and "loss" in done.stdout, done.stderr[-2000:]


# ---- plans and microbatches ----------------------------------------------------------------------


def test_plan_is_a_table() -> None:
    function = autopar.parallelize(step, method="zero3", donate_argnums=0)
    function(fresh(), X)
    text = str(function.plan)
    for part in (
        "method zero3 on a mesh of data=8",
        "batch: x, dimension 0 (inferred: it does not come back among the results)",
        "params['a']",
        "parameter",
        "[-, data]",
        "all_gather",
        " FLOPs\n",
        "bytes of arguments",
        "bytes of temporaries",
    ):
        assert part in text, text
    assert function.plan.shardings()["x"] == "[data, -]"
    assert function.plan.flops == 2 * 2 * (16 * 32 + 32 * 8) + 2 * 2 * 16 * 32 + 2 * 2 * 32 * 8 * 2


def test_plan_counts_loop_trips() -> None:
    def deep(params: Any, x: Any) -> Any:
        def body(x: Any, w: Any) -> Any:
            return jnp.tanh(x @ w), None

        return jnp.sum(jax.lax.scan(body, x, params)[0])

    params = RNG.normal(size=(5, 16, 16)).astype(np.float32)
    plan = autopar.parallelize(deep, method="dp", batch_argnums=1).lower(params, X).plan
    assert plan.flops == 5 * 2 * 2 * 16 * 16


@pytest.mark.parametrize("method", autopar.method_names())
def test_microbatches(method: str) -> None:
    options = {"in_shardings": (None, named("data"))} if method == "shard" else {}
    function = autopar.parallelize(
        step, method=method, num_micro_batches=4, batch_argnums=1, **options
    )
    close(function(PARAMS, X), EXPECTED)
    assert "4 microbatches a step" in str(function.plan)


def test_microbatches_with_shardings_of_whole_batches() -> None:
    def predict(params: Any, x: Any) -> Any:
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((x @ p["a"]) ** 2))(params)
        return grads, loss, x @ params["a"]

    function = autopar.parallelize(
        predict,
        method="shard",
        mesh=MESH,
        num_micro_batches=4,
        batch_argnums=1,
        in_shardings=(None, P(("data", "model"))),
        out_shardings=(None, None, P(("data", "model"))),
    )
    result = function(PARAMS, X)
    close(result, jax.jit(predict)(PARAMS, X))
    assert result[2].sharding == named(("data", "model"))
    assert function.plan.shardings()["x"] == "[data,model, -]"


def test_remark_about_sizes_that_do_not_divide() -> None:
    function = autopar.parallelize(step, method="dp", batch_argnums=1)
    close(function(PARAMS, X[:7]), jax.jit(step)(PARAMS, X[:7]))
    text = "argument 2 (x) of @main: a dimension of size 7 is not divisible"
    assert text in str(function.plan)


def test_plan_without_a_run() -> None:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (PARAMS, X))
    plan = autopar.plan(step, *shapes, mesh=(2, 4), method="zero3")
    assert str(plan).startswith("method zero3 on a mesh of data=2 x model=4")
    assert autopar.plan(autopar.parallelize(step, method="dp"), *shapes).method == "dp"
    assert isinstance(plan, autopar.Plan)


def test_gradients_are_reduced_as_one_without_copies() -> None:
    program = autopar.parallelize(step, method="dp").get_executable(PARAMS, X)
    lines = program.as_text().splitlines()
    assert sum(" all-reduce(" in line for line in lines) == 1, "XLA makes one of the small ones"
    assert not any(" concatenate(" in line for line in lines), "joined in a buffer"
