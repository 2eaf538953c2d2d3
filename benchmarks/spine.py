"""The spine against XLA's own partitioner: autopar and plain jax.jit with the same NamedShardings.

    python -m benchmarks.spine [--programs mlp,gpt-dp,…] [--compile-road]

For each program, in one run and alternating: collective bytes a step (ring bytes, counted on both
compiled modules), temporary memory of a device, step time; then the compile road (import to
XLA-ready module) against `jax.jit(step).lower(...)` for a GPT of 24 and 96 layers. Ratios are
autopar / jax.jit: below 1 is better.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import autopar

autopar.init(devices=8)

import jax  # noqa: E402  (devices are set up before JAX starts)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from models.gpt import (  # noqa: E402
    SIZES,
    batch_sharding,
    init_state,
    make_optimizer,
    make_train_step,
    state_shardings,
)

from . import options  # noqa: E402
from .hlo_bytes import total_bytes  # noqa: E402


class Program(NamedTuple):
    """A step with arguments, and how jax.jit is told to lay them out."""

    step: Callable[..., Any]
    state: Any
    batch: Any
    state_sharding: Any
    batch_sharding: Any
    method: str


def _mesh(*shape: int) -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(shape), ("data", "model")[: len(shape)])


def gpt(method: str, shape: tuple[int, ...]) -> Program:
    config = dataclasses.replace(SIZES["mini"], num_layers=4)
    optimizer = make_optimizer(1e-3, 100)
    state = jax.tree.map(np.asarray, init_state(config, optimizer))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 256, (16, config.sequence_length + 1)).astype(np.int32)
    step = make_train_step(config, optimizer)
    mesh = _mesh(*shape)
    if method == "shard":
        laid_out = state_shardings(state, mesh)
        return Program(step, state, {"tokens": tokens}, laid_out, batch_sharding(mesh), method)
    if method == "zero3":
        laid_out = jax.tree.map(lambda x: NamedSharding(mesh, _zero3_spec(x)), state)
    else:
        laid_out = jax.tree.map(lambda x: NamedSharding(mesh, P()), state)
    return Program(step, state, {"tokens": tokens}, laid_out, batch_sharding(mesh), method)


def _zero3_spec(x: Any) -> P:
    """The dimension that autopar's ZeRO shards: the largest that 8 divides, of tensors >= 512."""
    dims = [d for d, n in enumerate(np.shape(x)) if n % 8 == 0]
    if np.size(x) < 512 or not dims:
        return P()
    best = max(dims, key=lambda d: (np.shape(x)[d], -d))
    return P(*(["data" if d == best else None for d in range(best + 1)]))


def mlp() -> Program:
    rng = np.random.default_rng(0)
    sizes = [256, 1024, 1024, 256]
    state = [rng.normal(size=(a, b)).astype(np.float32) / a**0.5 for a, b in pairwise(sizes)]
    batch = rng.normal(size=(512, 256)).astype(np.float32)

    def step(weights: Any, x: Any) -> Any:
        def loss(weights: Any) -> Any:
            h = x
            for w in weights[:-1]:
                h = jax.nn.gelu(h @ w)
            return jnp.mean((h @ weights[-1] - x) ** 2)

        value, grads = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.1 * g, weights, grads), value

    mesh = _mesh(8)
    laid_out = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)
    return Program(step, state, batch, laid_out, NamedSharding(mesh, P("data")), "dp")


def resnet() -> Program:
    """Three residual blocks with batch statistics, 32x32 images."""
    rng = np.random.default_rng(0)
    widths = [16, 16, 32, 64]

    def weight(*shape: int) -> Any:
        return (rng.normal(size=shape) / np.prod(shape[:-1]) ** 0.5).astype(np.float32)

    state: dict[str, Any] = {"stem": weight(3, 3, 3, 16), "head": weight(64, 10)}
    for i, (a, b) in enumerate(pairwise(widths)):
        state[f"block{i}"] = {
            "conv1": weight(3, 3, a, b), "conv2": weight(3, 3, b, b), "skip": weight(1, 1, a, b),
            "scale": np.ones(b, np.float32), "bias": np.zeros(b, np.float32),
        }  # fmt: skip
    batch = {
        "x": rng.normal(size=(32, 32, 32, 3)).astype(np.float32),
        "y": rng.integers(0, 10, 32).astype(np.int32),
    }

    def conv(x: Any, w: Any, stride: int = 1) -> Any:
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def norm(x: Any, p: Any) -> Any:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["scale"] + p["bias"]

    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            x = jax.nn.relu(conv(batch["x"], params["stem"]))
            for i in range(3):
                p, stride = params[f"block{i}"], 1 if i == 0 else 2
                y = jax.nn.relu(norm(conv(x, p["conv1"], stride), p))
                x = jax.nn.relu(conv(y, p["conv2"]) + conv(x, p["skip"], stride))
            logits = x.mean((1, 2)) @ params["head"]
            return -jnp.mean(
                jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(batch["y"], 10), -1)
            )

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, grads), value

    mesh = _mesh(8)
    laid_out = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)
    return Program(step, state, batch, laid_out, NamedSharding(mesh, P("data")), "dp")


PROGRAMS: dict[str, Callable[[], Program]] = {
    "mlp": mlp,
    "gpt-dp": lambda: gpt("dp", (8,)),
    "gpt-tp": lambda: gpt("shard", (1, 8)),
    "gpt-2d": lambda: gpt("shard", (2, 4)),
    "gpt-zero3": lambda: gpt("zero3", (8,)),
    "resnet": resnet,
}


def compare(name: str, rounds: int) -> None:
    """Prints the ratios of one program."""
    program = PROGRAMS[name]()

    def placed() -> tuple[Any, Any]:
        return (
            jax.device_put(program.state, program.state_sharding),
            jax.device_put(program.batch, program.batch_sharding),
        )

    state, batch = placed()
    plain = jax.jit(program.step, donate_argnums=0, out_shardings=(program.state_sharding, None))
    plain_compiled = plain.lower(state, batch).compile()
    shape = jax.tree.leaves(program.state_sharding)[0].mesh
    parallel = autopar.parallelize(
        program.step,
        method=program.method,
        mesh=shape,
        donate_argnums=0,
        batch_argnums=None if program.method == "shard" else 1,
    )
    ours_compiled = parallel.get_executable(state, batch)
    ours_bytes = total_bytes(ours_compiled.as_text(), 8)
    plain_bytes = total_bytes(plain_compiled.as_text(), 8)
    ours_temp = ours_compiled.memory_analysis().temp_size_in_bytes
    plain_temp = plain_compiled.memory_analysis().temp_size_in_bytes
    times: dict[str, list[float]] = {"autopar": [], "jit": []}
    states = {"autopar": placed()[0], "jit": placed()[0]}
    for round_ in range(rounds):
        for who, step in (("autopar", parallel), ("jit", plain)):
            began = time.perf_counter()
            states[who], loss = step(states[who], batch)
            jax.block_until_ready((states[who], loss))
            if round_ >= 2:
                times[who].append(time.perf_counter() - began)
    ours_time, plain_time = statistics.median(times["autopar"]), statistics.median(times["jit"])
    figures = (
        ("bytes", f"{ours_bytes:,.0f}", f"{plain_bytes:,.0f}", ours_bytes / plain_bytes),
        ("temp", f"{ours_temp:,}", f"{plain_temp:,}", ours_temp / plain_temp),
        ("step ms", f"{ours_time * 1e3:.1f}", f"{plain_time * 1e3:.1f}", ours_time / plain_time),
    )
    shown = "   ".join(f"{what} {a} / {b} = {ratio:.2f}" for what, a, b, ratio in figures)
    print(f"{name:10} {shown}", flush=True)


def compile_road(layers: int, rounds: int) -> None:
    """Prints the time of the road against JAX's own lowering of the same step: medians of rounds
    that alternate, each from nothing (JAX's caches are cleared)."""
    config = dataclasses.replace(SIZES["350M"], num_layers=layers)
    optimizer = make_optimizer(1e-3, 100)
    step = make_train_step(config, optimizer)
    state = jax.eval_shape(lambda: init_state(config, optimizer))
    tokens = jax.ShapeDtypeStruct((8, config.sequence_length + 1), jnp.int32)
    times: dict[str, list[float]] = {"lower": [], "dp": [], "zero3": []}
    for _ in range(rounds):
        for method in ("dp", "zero3"):
            jax.clear_caches()
            began = time.perf_counter()
            lowered = jax.jit(step, keep_unused=True).lower(state, {"tokens": tokens})
            native = lowered.compiler_ir("stablehlo")
            times["lower"].append(time.perf_counter() - began)
            times[method].append(_road_time(native, len(jax.tree.leaves(state)), method))
    lower = statistics.median(times.pop("lower"))
    for method, measured in times.items():
        road = statistics.median(measured)
        print(
            f"road {method:6} {layers:3} layers: {road:6.2f} s / lower {lower:6.2f} s"
            f" = {road / lower:5.2f}",
            flush=True,
        )


def _road_time(native: Any, state_size: int, method: str) -> float:
    """Seconds from JAX's module to one for each device; the last argument is the batch."""
    from autopar.dialects.sharding import Grid
    from autopar.lowering.exporter import export_module
    from autopar.lowering.mlir_context import merge_equal_ops
    from autopar.passes.importing.methods import MethodOptions
    from autopar.road import ArgumentInfo, Road

    arguments = [ArgumentInfo("state", 0, i) for i in range(state_size)]
    road = Road(
        native,
        [*arguments, ArgumentInfo("batch")],
        Grid("mesh", (("data", 8),)),
        MethodOptions(method),
    )
    began = time.perf_counter()
    merge_equal_ops(native)
    export_module(road.program().module)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--programs", type=options.listed(options.one_of(PROGRAMS)), default=",".join(PROGRAMS)
    )
    parser.add_argument("--rounds", type=options.at_least(1), default=24)
    parser.add_argument("--compile-road", action="store_true", help="the compile road alone")
    args = parser.parse_args()
    if not args.compile_road:
        for name in args.programs:
            compare(name, args.rounds)
    compile_road(24, rounds=5)
    compile_road(96, rounds=2)


if __name__ == "__main__":
    main()
