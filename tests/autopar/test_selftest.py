"""`autopar selftest` passes here, in time, and names the layer that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autopar import selftest
from autopar.cli import main
from autopar.selftest import CHECKS, Check

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("devices", [1, 3, 6, 8])
def test_passes(devices: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--devices", str(devices), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and [check["layer"] for check in report["checks"]] == [
        check.name for check in CHECKS
    ]


def test_module_in_a_fresh_process() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "autopar.selftest", "--devices", "6"],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    devices" in done.stdout and "6 x cpu" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"autopar works here ({len(CHECKS)} layers")
    assert time.perf_counter() - start < 60


def test_names_the_failing_layer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: int | None) -> None:
        raise ValueError("no such thing")

    checks = (CHECKS[0], Check("partition", broken, False), Check("execution", broken))
    monkeypatch.setattr(selftest, "CHECKS", checks)
    assert main(["selftest", "--devices", "2"]) == 1
    output = capsys.readouterr().out
    assert "FAIL  partition" in output and "ValueError: no such thing" in output
    assert "the layer 'partition' fails (and execution)" in output
    assert main(["selftest", "--devices", "2", "-q"]) == 1
    assert "ok  " not in capsys.readouterr().out


def test_too_few_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """JAX runs already, with eight devices: the remedy is said once."""
    assert main(["selftest", "--devices", "9"]) == 1
    output = capsys.readouterr().out
    assert output.count("call autopar.init(devices=9)") == 1
    assert "not tried: the layer 'devices' fails" in output
