"""Devices of the local JAX backend: virtual CPU devices set up for the user, real ones as found."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

logger = logging.getLogger("autopar")

_PROGRAMS_IN_FLIGHT = 8
"""For how many programs with collectives virtual devices have threads: half for ours, half for the
user's own."""
_has_enough_threads = False
MOST_VIRTUAL_DEVICES = 1024
"""XLA takes ten seconds to make as many on two cores, and fails after minutes at some thousands."""
_FLAG = "--xla_force_host_platform_device_count"


class DeviceError(RuntimeError):
    """The devices that were asked for cannot be had."""


def is_count(value: Any) -> bool:
    """Whether the value is a whole number of at least 1 (and not True)."""
    return isinstance(value, Integral) and value is not True and int(value) >= 1


def device_memory(devices: Sequence[Any]) -> int:
    """Bytes that a device of these may allocate: what its runtime says; of virtual ones their share
    of this machine's memory."""
    stats = devices[0].memory_stats()
    if stats and stats.get("bytes_limit"):
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)


def init_devices(count: int | None) -> list[Any]:
    """The first `count` devices (None: all), making virtual CPU devices if JAX has not started.

    Where there are accelerators, but fewer than `count`, virtual CPU devices stand in for them.
    DeviceError where JAX's backend exists already with fewer devices: it says what to move.
    """
    from autopar.lowering.jax_compat import backend_is_initialized

    if count is not None and not is_count(count):
        raise DeviceError(f"devices={count!r}: expected a whole number of at least 1")
    if count is not None and not backend_is_initialized():
        _request_virtual_devices(count)
    import jax

    with _enough_threads():
        try:
            devices = jax.devices()
        except RuntimeError as error:  # JAX_PLATFORMS names none, or a driver fails
            raise DeviceError(f"JAX finds no devices: {error}") from error
    if count is not None and len(devices) < count:
        devices = _virtual_devices(count, devices)
    return devices if count is None else devices[:count]


def _virtual_devices(count: int, real: Sequence[Any]) -> list[Any]:
    """CPU devices in place of too few real ones; DeviceError where there are too few as well."""
    import jax

    platform = real[0].platform
    found = f"{len(real)} {platform} device{'s' if len(real) > 1 else ''}"
    if platform != "cpu":
        try:
            virtual = jax.devices("cpu")
        except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
            raise DeviceError(
                f"{count} devices were asked for, there are {found}: ask for {len(real)}, or "
                "export JAX_PLATFORMS=cpu for virtual devices"
            ) from None
        if len(virtual) >= count:
            logger.warning("%d virtual CPU devices are used: there are %s", count, found)
            return virtual
    raise DeviceError(
        f"{count} devices were asked for, JAX already runs with {found}: call "
        f"autopar.init(devices={count}) before the first JAX computation, or "
        f'export XLA_FLAGS="{_FLAG}={count}" before Python starts'
    )


@contextmanager
def _enough_threads() -> Generator[None]:
    """Lets XLA's CPU client have more threads than cores if it starts inside.

    A collective holds the thread of each device until all have come. With fewer threads than the
    devices of all programs in flight need, they wait for each other for ever (plain jax.jit's too).
    XLA reads the size of its thread pool from NPROC.
    """
    from autopar.lowering.jax_compat import backend_is_initialized

    match = re.search(rf"{_FLAG}=(\d+)", os.environ.get("XLA_FLAGS", ""))
    if match is None or "NPROC" in os.environ or backend_is_initialized():
        yield
        return
    global _has_enough_threads
    os.environ["NPROC"] = str(max(os.cpu_count() or 1, _PROGRAMS_IN_FLIGHT * int(match[1])))
    try:
        yield
        _has_enough_threads = True
    finally:
        del os.environ["NPROC"]


def runs_in_flight() -> int:
    """How many runs of programs with collectives may be under way at once on virtual devices."""
    return _PROGRAMS_IN_FLIGHT // 2 if _has_enough_threads else 1


def _request_virtual_devices(count: int) -> None:
    """Sets XLA's flag for the CPU backend, keeping a larger number that the user set."""
    if count > MOST_VIRTUAL_DEVICES:
        raise DeviceError(
            f"{count} devices were asked for: at most {MOST_VIRTUAL_DEVICES} virtual CPU devices "
            "are made on a machine, ask for fewer"
        )
    flags = os.environ.get("XLA_FLAGS", "")
    match = re.search(rf"{_FLAG}=(\d+)", flags)
    if match is None:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={count}".strip()
    elif int(match[1]) < count:
        os.environ["XLA_FLAGS"] = flags.replace(match[0], f"{_FLAG}={count}")
