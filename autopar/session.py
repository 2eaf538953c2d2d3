"""The devices of this process: `init` and `shutdown`."""

from __future__ import annotations

from typing import Any

from autopar.runtime.devices import DeviceError, init_devices

_devices: list[Any] | None = None


def init(devices: int | None = None, cluster: str = "local") -> None:
    """Sets the devices that programs run on: the first `devices` of the local JAX backend.

    On the CPU backend, virtual devices are made if JAX has not started yet; DeviceError (in one
    line, with the remedy) where it has, with fewer devices. May be called again, with another
    number: programs compiled before keep their devices.
    """
    global _devices
    if cluster != "local":
        raise ValueError(
            f"cluster={cluster!r} is not available in this version: only 'local' (this process)"
        )
    _devices = init_devices(devices)


def shutdown() -> None:
    """Forgets the devices that `init` set and every compiled program."""
    global _devices
    _devices = None
    from .parallelized import clear_executable_cache

    clear_executable_cache()


def local_devices() -> list[Any]:
    """The devices set by `init`, or all devices of the backend."""
    return list(_devices) if _devices is not None else init_devices(None)


def first_devices(count: int, what: str) -> list[Any]:
    """The first `count` of `local_devices()`; DeviceError says how to have as many."""
    devices = local_devices()
    if count > len(devices):
        there = len(init_devices(None))
        when = "" if there >= count else " before the first JAX computation"
        chosen = "there are" if there == len(devices) else f"of {there} autopar.init chose"
        raise DeviceError(
            f"{what} needs {count} devices, {chosen} {len(devices)}: call "
            f"autopar.init(devices={count}){when}, or choose a mesh of {len(devices)}"
        )
    return devices[:count]
