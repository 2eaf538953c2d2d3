"""The example trains the same model under every method, and goes on from its checkpoints."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for name in ("flax", "optax", "orbax.checkpoint", "matplotlib", "tqdm"):
    pytest.importorskip(name)

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("train_gpt", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(example: Any, folder: Path, *arguments: str) -> list[float]:
    plot = folder / "loss.png"
    found = example.train(
        ["--size", "nano", "--plot", str(plot), "-q", "--sample-bytes", "0", *arguments]
    )
    assert plot.stat().st_size > 0 or not found
    return found


@pytest.fixture(scope="module")
def single(example: Any, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return run(example, tmp_path_factory.mktemp("single"), "--method", "single", "--steps", "6")


@pytest.mark.parametrize(
    ("method", "mesh"),
    [
        ("dp", "8"),
        ("zero2", "8"),
        ("zero3", "8"),
        ("shard", "2x4"),
        ("shard", "1x8"),
        ("dp", "1x8"),
    ],
)
def test_methods_equal_one_device(
    example: Any, single: list[float], tmp_path: Path, method: str, mesh: str
) -> None:
    found = run(example, tmp_path, "--method", method, "--mesh", mesh, "--steps", "6")
    np.testing.assert_allclose(found, single, rtol=1e-4)


def test_microbatches(example: Any, single: list[float], tmp_path: Path) -> None:
    found = run(example, tmp_path, "--method", "zero3", "--num-micro-batches", "2", "--steps", "6")
    np.testing.assert_allclose(found, single, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")  # orbax warns about its own interfaces
def test_resumes_on_another_mesh(example: Any, single: list[float], tmp_path: Path) -> None:
    saved = ("--checkpoint-dir", str(tmp_path / "run"))
    first = run(example, tmp_path, "--method", "zero3", "--steps", "3", *saved)
    rest = run(
        example, tmp_path, "--method", "shard", "--mesh", "2x4", "--steps", "6", "--resume", *saved
    )
    np.testing.assert_allclose(first + rest, single, rtol=1e-4)
    assert run(example, tmp_path, "--method", "dp", "--steps", "4", "--resume", *saved) == []
    with pytest.raises(SystemExit, match="holds a checkpoint of step 6: add --resume"):
        run(example, tmp_path, "--method", "dp", "--steps", "4", *saved)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mesh", "2y4"], "--mesh 2y4: expected sizes joined by x"),
        (["--resume"], "--resume needs --checkpoint-dir"),
        (["--steps", "0"], "--steps 0: expected at least 1"),
        (["--num-micro-batches", "3"], "--num-micro-batches 3 does not divide --batch-size 16"),
        (
            ["--method", "shard", "--mesh", "3x2"],
            "--batch-size 16 is not divisible over 3 devices",
        ),
        (["--method", "magic"], "invalid choice"),
        (["--seed", "9" * 23], "--seed 99999999999999999999999: expected at least 0"),
        (["--learning-rate", "nan"], "--learning-rate nan: expected a number above 0"),
        (["--learning-rate=-1"], "--learning-rate -1.0: expected a number above 0"),
        (["--sample-bytes=-5"], "--sample-bytes -5: expected at least 0"),
    ],
)
def test_wrong_options(
    example: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        example.train(arguments)
    assert caught.value.code == 1
    assert expected in capsys.readouterr().err


def test_wrong_size_and_data(example: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--size huge is unknown"):
        example.train(["--size", "huge"])
    with pytest.raises(SystemExit, match="too little to train on"):
        example.train(["--data", str(tmp_path)])


def test_a_plot_that_cannot_be_written(example: Any, tmp_path: Path) -> None:
    """Said before the training."""
    (tmp_path / "d.png").mkdir()
    (tmp_path / "file").touch()
    for name, message in (
        ("x.foo", r"expected a name that ends in \."),
        (".", "expected a name that ends in"),
        ("d.png", "cannot be written"),
        ("file/x.png", "--plot"),
    ):
        with pytest.raises(SystemExit, match=message):
            example.train(["--plot", str(tmp_path / name)])
    assert not (tmp_path / "x.foo").exists()


def test_interrupted(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(example, "train", interrupt)
    assert example.main() == 130


def test_help() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    assert "--method" in done.stdout and "default: dp" in done.stdout
