"""What auto-shard takes devices for where nobody names a cluster."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autopar.methods import AutoShardParallel, nearest_preset


@pytest.mark.parametrize(
    ("platform", "kind", "preset"),
    [
        ("cpu", "cpu", "cpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", "8xh100"),
        ("gpu", "NVIDIA A100-SXM4-40GB", "8xa100"),
        ("gpu", "Tesla V100-SXM2-16GB", "8xv100"),
        ("tpu", "TPU v5 lite", "tpu-v5e"),
    ],
)
def test_presets(platform: str, kind: str, preset: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autopar"):
        assert nearest_preset(platform, kind) == preset
    assert not caplog.records


@pytest.mark.parametrize(
    ("platform", "kind", "preset"), [("gpu", "Tesla T4", "8xh100"), ("tpu", "TPU v4", "tpu-v5e")]
)
def test_a_kind_without_preset_is_told(
    platform: str, kind: str, preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "autopar"):
        assert nearest_preset(platform, kind) == preset
    (record,) = caplog.records
    text = record.getMessage()
    assert kind in text and preset in text and "profile-cluster" in text


def _mesh(num_bytes: int) -> Any:
    device = SimpleNamespace(
        platform="gpu",
        device_kind="NVIDIA A100-SXM4-40GB",
        memory_stats=lambda: {"bytes_limit": num_bytes},
    )
    return SimpleNamespace(devices=np.array([device] * 4))


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 30 * 2**30),
        ({"memory_per_device": 7 * 2**30}, 7 * 2**30),
        ({"cluster": "8xv100"}, None),
    ],
)
def test_the_limit_is_what_devices_have(options: dict[str, Any], limit: int | None) -> None:
    """Where a cluster is named, its own."""
    made = AutoShardParallel(options=options).planner(_mesh(30 * 2**30))
    assert made.memory_per_device == limit
