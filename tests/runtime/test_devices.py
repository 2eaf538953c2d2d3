"""Devices: virtual ones as asked for, stand-ins for missing accelerators, errors with a remedy."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import pytest

from autopar.lowering import jax_compat
from autopar.runtime import devices
from autopar.runtime.devices import DeviceError, init_devices


class Device(NamedTuple):
    platform: str
    id: int


def machine(gpus: int, cpus: int | None) -> Callable[[str | None], list[Device]]:
    """jax.devices of a machine; `cpus=None`: JAX_PLATFORMS leaves the CPU out."""

    def of(platform: str | None = None) -> list[Device]:
        if platform == "cpu" and cpus is None:
            raise RuntimeError("Unknown backend cpu")
        kind, count = ("gpu", gpus) if gpus and platform is None else ("cpu", cpus or 0)
        return [Device(kind, i) for i in range(count)]

    return of


def test_the_first_of_all() -> None:
    assert init_devices(None) == jax.devices()
    assert init_devices(3) == jax.devices()[:3]


def test_more_than_a_machine_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_compat, "backend_is_initialized", lambda: False)
    with pytest.raises(DeviceError, match="20000 devices were asked for: at most 1024 virtual"):
        init_devices(20000)


def test_virtual_devices_stand_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jax, "devices", machine(1, 8))
    assert init_devices(1) == [Device("gpu", 0)]
    with caplog.at_level(logging.WARNING, "autopar"):
        assert [d.platform for d in init_devices(6)] == ["cpu"] * 6
    assert "6 virtual CPU devices are used: there are 1 gpu device" in caplog.text


@pytest.mark.parametrize(
    ("count", "present", "message"),
    [
        (0, (0, 8), "devices=0: expected a whole number of at least 1"),
        (2.5, (0, 8), "devices=2.5: expected a whole number"),
        (True, (0, 8), "devices=True: expected a whole number"),
        (9, (0, 8), r"JAX already runs with 8 cpu devices: call autopar.init\(devices=9\) before"),
        (9, (2, 8), "JAX already runs with 2 gpu devices"),
        (4, (2, None), "ask for 2, or export JAX_PLATFORMS=cpu for virtual devices"),
    ],
)
def test_errors(
    count: Any, present: tuple[int, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "devices", machine(*present))
    with pytest.raises(DeviceError, match=message):
        init_devices(count)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "--xla_force_host_platform_device_count=6"),
        ("--xla_x=1", "--xla_x=1 --xla_force_host_platform_device_count=6"),
        ("--xla_force_host_platform_device_count=2 --xla_x=1",
         "--xla_force_host_platform_device_count=6 --xla_x=1"),
        ("--xla_force_host_platform_device_count=12", "--xla_force_host_platform_device_count=12"),
    ],
)  # fmt: skip
def test_the_flag_of_xla(before: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger number that the user has set is kept."""
    monkeypatch.setenv("XLA_FLAGS", before)
    devices._request_virtual_devices(6)  # pyright: ignore[reportPrivateUsage]
    assert os.environ["XLA_FLAGS"] == after


def test_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("Unable to initialize backend 'foo'")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(DeviceError, match="JAX finds no devices: Unable to initialize backend"):
        init_devices(2)
