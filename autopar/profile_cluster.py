"""`autopar profile-cluster`: a cluster file from what the devices here really do.

Everything is measured with all devices at work at once, as in a training step: matmuls of each
element type and convolutions of growing width, both with their gradients; an elementwise op for the
memory; sums, products and exponentials in a row for what elements take by themselves; all_reduces
and all_gathers over groups of neighbours of growing size. Each call is awaited before the next:
virtual CPU devices share threads, and programs with collectives in flight could wait for each other
for ever.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, NamedTuple

from .files import output_path, write_whole
from .passes.cost.cluster import Cluster, Device, Link, write_cluster
from .passes.cost.collectives import all_gather_bytes, all_reduce_bytes
from .passes.cost.flops import window_meetings
from .terminal import Progress, write_stdout

DEFAULT_DEVICES = 8
"""Virtual CPU devices where there are no real ones."""
_SAME = 1.5
"""Links whose figures differ by less are one."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    output: str | None
    """Where the file goes; None: standard output."""
    devices: int | None = None
    quick: bool = False


class _Sizes(NamedTuple):
    """How much work a measurement is."""

    matmul: int
    """Rows and columns of the matrices."""
    images: tuple[int, int]
    """What is convolved: how many, and their height and width."""
    features: tuple[int, ...]
    """Of the images and of the results, from narrow to wide."""
    memory_bytes: int
    """Of the array that is read and written on each device."""
    large_bytes: int
    """What a device puts into a collective whose bytes count."""
    seconds: float
    """How long one figure is measured."""


_SIZES = {
    ("cpu", False): _Sizes(512, (4, 16), (8, 16, 32, 64), 2**23, 2**22, 0.8),
    ("cpu", True): _Sizes(256, (4, 16), (8, 16, 32, 64), 2**22, 2**20, 0.2),
    ("accelerator", False): _Sizes(8192, (64, 32), (32, 64, 128, 256), 2**30, 2**27, 1.0),
    ("accelerator", True): _Sizes(4096, (32, 32), (32, 64, 128, 256), 2**28, 2**25, 0.25),
}
_SMALL_BYTES = 1024
"""What a device puts into a collective of which the latency counts."""
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def profile_to_file(request: Request, progress: Progress) -> Cluster:
    """Measures and writes the file; UsageError or DeviceError is one line, and then nothing is
    written."""
    path = None if request.output is None else output_path(request.output)
    cluster, text = profile(request, progress)
    if path is None:
        progress.done()
        write_stdout(text)
        return cluster

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_whole(path, write)
    return cluster


def profile(request: Request, progress: Progress) -> tuple[Cluster, str]:
    """The cluster of the local devices, and its file with the measurements as comments."""
    progress.step("starting JAX")
    devices = _devices(request.devices)
    import jax

    from autopar.runtime.devices import device_memory

    platform, kind = devices[0].platform, devices[0].device_kind
    sizes = _SIZES["cpu" if platform == "cpu" else "accelerator", request.quick]
    flops: dict[str, float] = {}
    notes: dict[str, str] = {}
    for dtype, name in _DTYPES.items():
        progress.step(f"matmuls in {dtype}")
        flops[dtype] = _matmul_flops(devices, name, sizes)
        notes[f"device.flops.{dtype}"] = (
            f"matmuls of {sizes.matmul} x {sizes.matmul} and their gradients"
        )
    progress.step("convolutions")
    convolution = _convolution_shares(devices, flops["f32"], sizes)
    notes["device.convolution"] = _convolution_note(sizes)
    progress.step("memory bandwidth")
    bandwidth = _memory_bandwidth(devices, sizes)
    notes["device.memory_bandwidth"] = f"an elementwise op on {sizes.memory_bytes} bytes"
    progress.step("elementwise operations")
    elementwise = _elementwise_rate(devices, sizes)
    notes["device.elementwise"] = f"{2 * _PAIRS} sums and products in a row on 1 MiB"
    transcendental = _function_rate(devices, sizes)
    notes["device.transcendental"] = f"{_FUNCTIONS} exponentials in a row on 1 MiB"
    memory = device_memory(devices)
    links: list[Link] = []
    for size in _group_sizes(len(devices)):
        progress.step(f"collectives over {size} of {len(devices)} devices")
        links.append(_measured_link(devices, size, sizes))
    device = Device(kind, flops, memory, bandwidth, convolution, elementwise, transcendental)
    cluster = Cluster(f"{len(devices)} x {kind}", device, tuple(distinct_links(links)))
    notes[""] = (
        f"Measured by autopar profile-cluster{' --quick' if request.quick else ''} on "
        f"{len(devices)} x {kind}, jax {jax.__version__},\nwith all devices at work at once."
    )
    return cluster, write_cluster(cluster, notes)


def distinct_links(measured: list[Link]) -> list[Link]:
    """Links of growing size, each with figures of its own: an outer one costs at least what the
    inner one does, and one that costs about the same replaces it."""
    links: list[Link] = []
    for link in measured or [Link(1, 0.0, 0.0)]:
        if links:
            inner = links[-1]
            link = Link(link.size, max(link.alpha, inner.alpha), max(link.beta, inner.beta))
            if link.alpha <= _SAME * inner.alpha and link.beta <= _SAME * inner.beta:
                links.pop()
        links.append(link)
    return links


def report(cluster: Cluster) -> dict[str, Any]:
    """The facts for `--json`."""
    device = cluster.device
    return {
        "version": 1,
        "name": cluster.name,
        "device": {
            "kind": device.kind,
            "flops": dict(device.flops),
            "convolution": dict(device.convolution),
            "memory_bytes": device.memory_bytes,
            "memory_bandwidth": device.memory_bandwidth,
            "elementwise": device.elementwise,
            "transcendental": device.transcendental,
        },
        "links": [vars(link) for link in cluster.links],
    }


def report_text(cluster: Cluster) -> str:
    """The same for people."""
    device = cluster.device
    lines = [cluster.name]
    for dtype, flops in device.flops.items():
        lines.append(f"  {dtype:6} {flops / 1e12:12.4g} TFLOP/s")
    for features, share in device.convolution.items():
        lines.append(f"  convolutions of {features:3} features: {share:.2f} of that")
    lines.append(f"  memory {device.memory_bandwidth / 1e9:12.4g} GB/s")
    lines.append(
        f"  elements {device.elementwise / 1e9:10.4g} G operations/s, "
        f"{device.transcendental / 1e9:.4g} G exponentials/s"
    )
    for link in cluster.links:
        lines.append(
            f"  {link.size:4} devices: {link.alpha * 1e6:.3g} us a message, "
            f"{link.beta * 1e9:.3g} s a GB"
        )
    return "\n".join(lines) + "\n"


# ---- measuring -----------------------------------------------------------------------------------


def _devices(count: int | None) -> list[Any]:
    from autopar.lowering.jax_compat import backend_is_initialized
    from autopar.runtime.devices import init_devices

    if count is None and not backend_is_initialized() and not _has_accelerators():
        count = DEFAULT_DEVICES
    return init_devices(count)


def _has_accelerators() -> bool:
    """Whether JAX will find others than the CPU, as far as can be told before it starts: virtual
    devices are made then or never."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms:
        return platforms.split(",")[0] != "cpu"
    return any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "accel0", "vfio/0", "kfd"))


def _seconds(call: Callable[[], Any], at_least: float) -> float:
    """The time of a call, each awaited, over `at_least` seconds and three calls: the lower
    quartile, since others on the machine only add to it."""
    import jax

    jax.block_until_ready(call())  # compiles
    jax.block_until_ready(call())  # first touch of the buffers
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < at_least:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 4]


def _each_seconds(
    devices: list[Any],
    group: int,
    body: Callable[[Any], Any],
    shape: tuple[int, ...],
    dtype: str,
    at_least: float,
) -> float:
    """Seconds of `body`, run on a local array of `shape` on every device at once; the mesh axis
    `group` joins each `group` neighbours. From programs with one and with several in a row, which
    tells it from what a call takes itself."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(devices).reshape(-1, group), ("others", "group"))
    spec = P(("others", "group"))
    whole = (len(devices) * shape[0], *shape[1:])
    value = 1 / shape[0]  # a product of such matrices is itself
    make = jax.jit(lambda: jnp.full(whole, value, dtype), out_shardings=NamedSharding(mesh, spec))
    array = jax.block_until_ready(make())

    def chained(length: int) -> float:
        def run(x: Any) -> Any:
            for _ in range(length):
                x = jax.lax.optimization_barrier(body(x))
            return x

        mapped = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return _seconds(partial(jax.jit(mapped), array), at_least / 2)

    one, many = chained(1), chained(1 + _CHAIN)
    return max(many - one, 1e-9) / _CHAIN


_CHAIN = 6


def _matmul_flops(devices: list[Any], dtype: str, sizes: _Sizes) -> float:
    """FLOPs a second of one device. Gradients count, since libraries may be slower where an operand
    is transposed."""
    import jax

    def layer(x: Any) -> Any:
        y, gradients = jax.vjp(lambda x, w: x @ w, x, x)
        return sum(gradients(y)) / 2

    n = sizes.matmul
    seconds = _each_seconds(devices, 1, layer, (n, n), dtype, sizes.seconds)
    return 3 * 2 * n**3 / seconds


_WINDOW = 3


def _convolution_shares(devices: list[Any], matmul_flops: float, sizes: _Sizes) -> dict[int, float]:
    """The share of the rate of matmuls that a convolution and its gradients reach in f32, by
    features."""
    return {
        features: round(_convolution_flops(devices, features, sizes) / matmul_flops, 3)
        for features in sizes.features
    }


def _convolution_flops(devices: list[Any], features: int, sizes: _Sizes) -> float:
    """FLOPs a second of one device."""
    import jax

    images, size = sizes.images
    kernel = (_WINDOW, _WINDOW, features, features)

    def convolved(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def layer(x: Any) -> Any:
        # taken from x, so that nothing is computed ahead; sums of windows stay what they are
        weights = x.reshape(-1)[: math.prod(kernel)].reshape(kernel)
        y, gradients = jax.vjp(convolved, x, weights * (images / math.prod(kernel[:3])))
        of_images, of_weights = gradients(y)
        return of_images + _LITTLE * of_weights.sum()

    shape = (images, size, size, features)
    seconds = _each_seconds(devices, 1, layer, shape, "float32", sizes.seconds)
    met = window_meetings(size, _WINDOW, size, stride=1, low=_WINDOW // 2, apart=1, between=1)
    return 3 * 2 * images * met**2 * features**2 / seconds


_LITTLE = 1e-9
"""Keeps a value in a program without changing the others."""


def _convolution_note(sizes: _Sizes) -> str:
    images, size = sizes.images
    return (
        "by output features, the share of the rate of f32 matmuls that convolutions reach:\n"
        f"windows of {_WINDOW} x {_WINDOW} over {images} images of {size} x {size}, with gradients"
    )


def _memory_bandwidth(devices: list[Any], sizes: _Sizes) -> float:
    """Bytes a second that one device reads and writes."""
    import jax

    def negated(x: Any) -> Any:  # a loop: ops in a row would be fused to one
        return jax.lax.fori_loop(0, _PASSES, lambda _, value: -value, x)

    shape = (sizes.memory_bytes // 4,)
    seconds = _each_seconds(devices, 1, negated, shape, "float32", sizes.seconds)
    return 2 * _PASSES * sizes.memory_bytes / seconds


_PASSES = 4


def _group_sizes(count: int) -> list[int]:
    """The groups of neighbours that are measured: powers of two that divide, and all devices."""
    powers = [2**k for k in range(1, count.bit_length()) if count % 2**k == 0]
    return sorted({*powers, count} - {1})


def _measured_link(devices: list[Any], group: int, sizes: _Sizes) -> Link:
    """alpha and beta of collectives over groups of neighbours, mean of all_reduce and
    all_gather."""
    alphas: list[float] = []
    betas: list[float] = []
    large = sizes.large_bytes
    for body, put_in, ring_bytes in (
        (_reduced, large, all_reduce_bytes(large, group)),
        (_gathered, large // group, all_gather_bytes(large // group, group)),
    ):

        def seconds(num_bytes: int, body: Callable[[Any], Any] = body) -> float:
            shape = (num_bytes // 4,)
            return _each_seconds(devices, group, body, shape, "float32", sizes.seconds)

        alpha = seconds(_SMALL_BYTES)
        alphas.append(alpha)
        betas.append(max(seconds(put_in) - alpha, 0.0) / ring_bytes)
    return Link(group, statistics.mean(alphas), statistics.mean(betas))


def _reduced(x: Any) -> Any:
    import jax

    return jax.lax.psum(x, "group")


def _gathered(x: Any) -> Any:
    import jax

    return jax.lax.all_gather(x, "group", tiled=True)[: x.shape[0]]


def _elementwise_rate(devices: list[Any], sizes: _Sizes) -> float:
    """Simple operations a second of one device, on what it has in registers."""

    def chain(x: Any) -> Any:  # no two of these are made one instruction
        for _ in range(_PAIRS):
            x = (x + 0.5) * 0.5
        return x

    return 2 * _PAIRS * _ELEMENTS / _elementwise_seconds(devices, chain, sizes)


def _function_rate(devices: list[Any], sizes: _Sizes) -> float:
    """Exponentials a second of one device."""
    import jax.numpy as jnp

    def chain(x: Any) -> Any:
        for _ in range(_FUNCTIONS):
            x = jnp.exp(-x)
        return x

    return _FUNCTIONS * _ELEMENTS / _elementwise_seconds(devices, chain, sizes)


def _elementwise_seconds(devices: list[Any], chain: Callable[[Any], Any], sizes: _Sizes) -> float:
    return _each_seconds(devices, 1, chain, (_ELEMENTS,), "float32", sizes.seconds)


_PAIRS = 64
_FUNCTIONS = 16
_ELEMENTS = 2**18
