"""`autopar profile-cluster`: the devices of this process measured, files that read back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autopar.cli import main
from autopar.passes.cost.cluster import Link, read_cluster
from autopar.profile_cluster import distinct_links

ROOT = Path(__file__).resolve().parents[2]


def test_a_measured_cluster_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "c.toml"
    start = time.perf_counter()
    assert main(["profile-cluster", "--quick", "-o", str(output), "--json"]) == 0
    seconds = time.perf_counter() - start
    print(f"quick: {seconds:.1f} s", file=sys.stderr)
    assert seconds < 60  # 15 on a machine of its own
    report = json.loads(capsys.readouterr().out)
    cluster = read_cluster(output)
    assert report["version"] == 1 and report["name"] == cluster.name == "8 x cpu"
    assert report["links"] == [vars(link) for link in cluster.links]
    assert cluster.num_devices == 8
    assert cluster.device.flops.keys() == {"f32", "bf16", "f16"}
    assert 1e8 < cluster.device.flops["f32"] < 1e13
    assert list(cluster.device.convolution) == [8, 16, 32, 64]
    assert all(0.001 < share < 100 for share in cluster.device.convolution.values())
    assert 1e7 < cluster.device.memory_bandwidth < 1e13
    assert all(1e-7 < link.alpha < 1 and link.beta < 1e-5 for link in cluster.links)
    assert output.read_text().startswith("# Measured by autopar profile-cluster --quick on 8 x cpu")


def test_standard_output_is_the_file(tmp_path: Path) -> None:
    """In a process of its own: virtual devices are made."""
    command = [sys.executable, "-m", "autopar.cli", "profile-cluster", "--quick", "--devices", "1"]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"},
    )
    (tmp_path / "one.toml").write_text(done.stdout)
    assert read_cluster(tmp_path / "one.toml").links == (Link(1, 0.0, 0.0),)
    assert done.stderr == ""


def test_links_that_cost_the_same_are_one() -> None:
    inner, same, outer = Link(2, 1e-5, 1e-10), Link(4, 1.2e-5, 0.9e-10), Link(8, 1e-5, 1e-8)
    assert distinct_links([inner, same, outer]) == [
        Link(4, 1.2e-5, 1e-10),
        Link(8, 1.2e-5, 1e-8),
    ]
    assert distinct_links([]) == [Link(1, 0.0, 0.0)]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--json"], "--json needs -o: the file itself goes to standard output"),
        (["-o", "none/c.toml"], "cannot write none/c.toml: there is no folder none"),
        (
            ["--devices", "0"],
            "argument --devices: expected a whole number of at least 1, found '0'",
        ),
        (["--devices", "4096"], "4096 devices were asked for, JAX already runs with 8 cpu devices"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile-cluster", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and problem in err
