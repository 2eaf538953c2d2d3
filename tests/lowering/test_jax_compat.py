"""What lowering/jax_compat relies on in the installed JAX, one test a function.

A failure here names the private interface that a new release has moved; the end-to-end tests would
only say that something broke.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxlib.mlir import ir

from autopar.lowering import jax_compat
from autopar.lowering.jax_compat import executables
from autopar.lowering.mlir_context import make_mlir_context

COUNT = 2
SHAPED = jax.ShapeDtypeStruct((4,), np.dtype(np.float32))

SUM_OF_REPLICAS = f"""
module attributes {{mhlo.num_partitions = 1 : i32, mhlo.num_replicas = {COUNT} : i32}} {{
  func.func public @main(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) {{
    %sum = "stablehlo.all_reduce"(%x) <{{
      channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>,
      replica_groups = dense<[[0, 1]]> : tensor<1x2xi64>, use_global_device_ids
    }}> ({{
    ^bb0(%a: tensor<f32>, %b: tensor<f32>):
      %c = stablehlo.add %a, %b : tensor<f32>
      stablehlo.return %c : tensor<f32>
    }}) : (tensor<2xf32>) -> tensor<2xf32>
    %double = stablehlo.add %x, %x : tensor<2xf32>
    return %double, %sum : tensor<2xf32>, tensor<2xf32>
  }}
}}
"""


def devices() -> list[Any]:
    return jax.devices()[:COUNT]


def sharding(*axes: str | None) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices()), ("x",)), PartitionSpec(*axes))


def native(text: str) -> Any:
    """A module of jaxlib's."""
    return ir.Module.parse(text, make_mlir_context())


@pytest.fixture(scope="module")
def program() -> tuple[Any, jax.Array, list[Callable[..., Any]]]:
    """A compiled program of two replicas, its argument and the handlers of its results."""
    loaded = jax_compat.compile_replicas(native(SUM_OF_REPLICAS), devices(), [])
    argument = jax.device_put(np.arange(4, dtype=np.float32), sharding("x"))
    whole = jax.ShapeDtypeStruct((2,), np.dtype(np.float32))
    handlers = [
        jax_compat.result_handler(SHAPED, sharding("x")),
        jax_compat.result_handler(whole, sharding()),
    ]
    return loaded, argument, handlers


Program = tuple[Any, jax.Array, list[Callable[..., Any]]]


def check_results(results: list[Any]) -> None:
    double, total = results
    np.testing.assert_array_equal(double, [0, 2, 4, 6])
    np.testing.assert_array_equal(total, [2, 4])
    assert double.sharding == sharding("x")
    assert total.sharding == sharding()
    assert total.is_fully_replicated


# ---- versions ------------------------------------------------------------------------------------


def test_the_installed_jax_is_supported() -> None:
    jax_compat.check_jax_version()


@pytest.mark.parametrize("version", [(0, 9, 9), (0, 12, 0), (1, 0, 0)])
def test_other_releases_are_refused(
    version: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "__version_info__", version)
    with pytest.raises(ImportError, match=r"autopar works with jax>=0\.10\.2,<0\.12\.0, found jax"):
        jax_compat.check_jax_version()


# ---- running -------------------------------------------------------------------------------------


def test_the_release_is_checked_before_private_imports() -> None:
    code = (
        "import sys, jax; jax.__version_info__ = (0, 9, 0)\n"
        "sys.modules['jax._src.compiler'] = None\n"
        "import autopar.lowering.jax_compat"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode
    assert "ImportError: autopar works with jax>=0.10.2" in run.stderr


def test_array_impl_is_the_type_of_arrays() -> None:
    assert type(jnp.zeros(2)) is jax_compat.ArrayImpl


def test_replicas_take_and_give_sharded_arrays(program: Program) -> None:
    loaded, argument, handlers = program
    results = jax_compat.execute(loaded, [argument], handlers)
    check_results(results)
    assert all(type(result) is jax_compat.ArrayImpl for result in results)


def test_replicas_follow_the_order_of_devices() -> None:
    order = devices()[::-1]
    loaded = jax_compat.compile_replicas(native(SUM_OF_REPLICAS), order, [])
    assert loaded.local_devices() == order


def test_a_run_with_a_token_can_be_waited_for(program: Program) -> None:
    loaded, argument, handlers = program
    results, token = jax_compat.execute_with_token(loaded, [argument], handlers)
    token.block_until_ready()
    assert all(result.is_ready() for result in results)
    check_results(results)


def test_effects_barrier_waits_for_registered_runs(program: Program) -> None:
    loaded, argument, handlers = program
    _, token = jax_compat.execute_with_token(loaded, [argument], handlers)
    jax_compat.register_effects(token, devices())
    tokens = executables.dispatch.runtime_tokens
    assert set(devices()) <= set(tokens.output_runtime_tokens)
    jax.effects_barrier()
    assert not tokens.output_runtime_tokens


def test_result_handler_makes_typed_keys() -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    placed = jax.device_put(keys, sharding("x"))
    handler = jax_compat.result_handler(placed, sharding("x"))
    buffers = [shard.data for shard in jax_compat.key_data(placed).addressable_shards]
    made = handler(buffers)
    assert made.dtype == keys.dtype
    assert made.shape == (4,)
    np.testing.assert_array_equal(jax.random.key_data(made), jax.random.key_data(keys))


# ---- lowering ------------------------------------------------------------------------------------


def test_lowered_parts_of_a_pure_function() -> None:
    parts = jax_compat.lowered_parts(jax.jit(lambda x: x + 1).lower(SHAPED))
    assert list(parts) == [
        "host_callbacks", "keepalive", "ordered_effects", "unordered_effects", "mutable"
    ]  # fmt: skip
    assert not any(parts.values())


def test_lowered_parts_tell_effects_and_callbacks() -> None:
    def f(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: None, x)
        return x + 1

    parts = jax_compat.lowered_parts(jax.jit(f).lower(SHAPED))
    assert parts["unordered_effects"]
    assert not parts["ordered_effects"]
    assert parts["host_callbacks"] or parts["keepalive"]


def test_program_meshes_are_those_of_all_shardings() -> None:
    first, second = sharding("x"), NamedSharding(Mesh(np.array(devices()), ("y",)), PartitionSpec())

    def f(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x + 1, first) * 2

    argument = jax.ShapeDtypeStruct((4,), np.dtype(np.float32), sharding=second)
    assert jax_compat.program_meshes(jax.jit(f).lower(argument)) == [second.mesh, first.mesh]
    assert jax_compat.program_meshes(jax.jit(lambda x: x + 1).lower(SHAPED)) == []


def test_lower_traced_keeps_device_put_as_a_constraint() -> None:
    traced = jax.jit(lambda x: jax.device_put(x, sharding("x")) * 2).trace(SHAPED)
    assert "sdy.sharding_constraint" in jax_compat.lower_traced(traced, "cpu").as_text()
    assert "sdy.sharding_constraint" not in traced.lower().as_text(), "JAX itself drops it"


def test_lower_traced_takes_device_put_of_keys() -> None:
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    traced = jax.jit(lambda k: jax.device_put(k, sharding("x"))).trace(keys)
    text = jax_compat.lower_traced(traced, "cpu").as_text()
    assert '[{"x"}, {}]' in text, "one dimension more: the integers of a key"


def test_lower_traced_lowers_for_another_platform() -> None:
    traced = jax.jit(lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, cuda=jnp.cos)).trace(
        SHAPED
    )
    text = jax_compat.lower_traced(traced, "cuda").as_text()
    assert "stablehlo.cosine" in text
    assert "stablehlo.sine" not in text


# ---- tracing -------------------------------------------------------------------------------------


def test_trace_context_tells_settings_apart() -> None:
    usual = jax_compat.trace_context()
    assert hash(usual) == hash(jax_compat.trace_context())
    with jax.default_matmul_precision("float32"):
        assert jax_compat.trace_context() != usual
    assert jax_compat.trace_context() == usual


def test_trace_state_is_clean_outside_of_transformations() -> None:
    seen: list[bool] = []

    def f(x: jax.Array) -> jax.Array:
        seen.append(jax_compat.trace_state_clean())
        return x

    f(jnp.zeros(2))
    jax.jit(f)(jnp.zeros(2))
    jax.grad(lambda x: f(x))(1.0)
    assert seen == [True, False, False]


def test_ordered_effect_is_found_inside_of_loops() -> None:
    def body(carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        io_callback(lambda value: None, None, x, ordered=True)
        return carry, x

    traced = jax.jit(lambda x: jax.lax.scan(body, jnp.zeros(()), x)).trace(SHAPED)
    found = jax_compat.ordered_effect(traced)
    assert found is not None
    assert found.endswith(
        ": ordered effects (io_callback) cannot run in a partitioned program: use the unordered "
        "form (ordered=False)"
    )
    assert "test_jax_compat.py" in found


def test_unordered_effects_are_no_ordered_ones() -> None:
    def f(x: jax.Array) -> jax.Array:
        io_callback(lambda value: None, None, x, ordered=False)
        return x

    assert jax_compat.ordered_effect(jax.jit(f).trace(SHAPED)) is None


# ---- dtypes and keys -----------------------------------------------------------------------------


def test_key_dtypes_are_told_from_integers() -> None:
    key = jax.random.key(0)
    assert jax_compat.is_key_dtype(key.dtype)
    assert not jax_compat.is_key_dtype(jax.random.key_data(key).dtype)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_are_made_again_from_their_data_and_implementation(impl: str) -> None:
    keys = jax.random.split(jax.random.key(7, impl=impl), 3)
    data = jax_compat.key_data(keys)
    assert type(data) is jax_compat.ArrayImpl
    again = jax.random.wrap_key_data(data, impl=jax_compat.key_impl(keys.dtype))
    assert again.dtype == keys.dtype
    np.testing.assert_array_equal(jax.random.bits(again[1], (4,)), jax.random.bits(keys[1], (4,)))


@pytest.mark.parametrize("value", [True, 1, 2.0, 3j, np.float64(1), np.arange(3), np.float16(1)])
def test_canonical_dtype_is_the_one_that_jax_gives(value: Any) -> None:
    assert jax_compat.canonical_dtype(value) == jnp.asarray(value).dtype


def test_backend_is_initialized_by_the_first_look_at_devices() -> None:
    code = (
        "import jax; from autopar.lowering.jax_compat import backend_is_initialized as is_made; "
        "before = is_made(); jax.devices(); print(before, is_made())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]


def _traced(fn: Any, size: int) -> Any:
    return jax.jit(fn).trace(jax.ShapeDtypeStruct((size, 4), jnp.float32))


@pytest.mark.parametrize(
    ("fn", "marks"),
    [
        (lambda x: x.sum() * x.shape[0], ["dense<3.2"]),
        (lambda x: (x.mean(0), x.shape[0]), ["dense<3.2", "dense<32>"]),
        (lambda x: x.sum() + jnp.ones(x.shape[0]).sum(), ["array<i64: 0>"]),
        (lambda x: jax.grad(lambda v: (v * x).mean())(1.0), ["dense<3.2", "array<i64: 0>"]),
        (lambda x: x.sum() * jnp.nan, []),
    ],
)
def test_the_size_of_the_batch_is_marked(fn: Any, marks: list[str]) -> None:
    traced, complete = jax_compat.mark_batch_sizes(_traced(fn, 32), _traced(fn, 8), 4)
    text = jax_compat.lower_traced(traced, "cpu").as_text()
    assert complete
    assert ("autopar." in text) == bool(marks)
    assert all(mark in text for mark in marks)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.lax.fori_loop(0, x.shape[0], lambda i, a: a * 2, x.sum()),
        lambda x: x.sum() if x.shape[0] > 16 else jnp.sin(x.sum()),
    ],
)
def test_another_course_for_a_microbatch(fn: Any) -> None:
    with pytest.raises(ValueError, match=rf"{Path(__file__).name}:.*num_micro_batches=4"):
        jax_compat.mark_batch_sizes(_traced(fn, 32), _traced(fn, 8), 4)


def test_the_place_of_an_error() -> None:
    def step(x: Any) -> Any:
        return x + jnp.ones(7)

    with pytest.raises(ValueError, match="Incompatible shapes") as info:
        _traced(step, 8)
    assert f"{Path(__file__).name}:" in jax_compat.user_place(info.value)


# ---- this file -----------------------------------------------------------------------------------


def test_every_function_is_tested_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    public = [name for name in jax_compat.__all__ if inspect.isfunction(getattr(jax_compat, name))]
    assert [name for name in public if f"jax_compat.{name}(" not in text] == [
        "backend_is_initialized"  # in a process of its own
    ]


def test_number_equations() -> None:
    def function(x: Any) -> Any:
        y, _ = jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)
        return jax.jit(jnp.cos)(y) + jax.checkpoint(jnp.tanh)(y)

    traced = jax.jit(function).trace(SHAPED)
    numbered = jax_compat.number_equations(traced)
    text = [jax_compat.lower_traced(t, "cpu").as_text() for t in (traced, numbered)]
    assert text[0] == text[1]
    named = jax_compat.lower_traced(numbered, "cpu").as_text(debug_info=True)
    assert len(set(jax_compat.EQUATION.findall(named))) >= 5
    seen: dict[str, list[tuple[int, ...]]] = {"operands": [], "results": []}

    class Rewrite:
        def operands(self, path: tuple[int, ...], values: Any) -> Any:
            seen["operands"].append(path)
            return values

        def results(self, path: tuple[int, ...], values: Any) -> Any:
            seen["results"].append(path)
            return values

    x = np.arange(4, dtype=np.float32)
    (result,) = jax_compat.evaluate_numbered(numbered.jaxpr, [x], Rewrite())
    np.testing.assert_allclose(result, function(x), rtol=1e-6)
    assert {len(path) for path in seen["results"]} == {1, 2}
    assert seen["operands"] == seen["results"]
    assert "eqn~" not in str(jax.make_jaxpr(lambda x: x)(x))
