"""Train a byte-level GPT on the Python standard library's sources, on virtual CPU devices.

    python examples/train_gpt.py --method zero3 --mesh 8
    python examples/train_gpt.py --method shard --mesh 2x4      # data x tensor parallel
    python examples/train_gpt.py --checkpoint-dir run --steps 100
    python examples/train_gpt.py --checkpoint-dir run --steps 200 --resume

The model (models/gpt.py) is plain flax; autopar partitions its training step. The loss of every
method is that of one device (`--method single`).
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import autopar

METHODS = (*autopar.method_names(aliases=True), "single")


class Parser(argparse.ArgumentParser):
    """Errors in one line, exit status 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message} (--help shows all options)\n")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        description="Train a byte-level GPT on the Python standard library's sources.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--method", choices=METHODS, default="dp", help="parallel method")
    parser.add_argument("--mesh", default="8", help="mesh shape, as 8, 2x4 or 1x8")
    parser.add_argument("--size", default="tiny", help="model size of models/gpt.py")
    parser.add_argument("--steps", type=int, default=50, help="training steps in all")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences a step")
    parser.add_argument("--num-micro-batches", type=int, default=1, help="gradient accumulation")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument(
        "--decay-steps", type=int, default=1000, help="length of the learning rate's schedule"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the data")
    parser.add_argument("--checkpoint-dir", type=Path, help="save the state here (Orbax)")
    parser.add_argument("--checkpoint-every", type=int, default=50, help="steps between saves")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument(
        "--plot", type=Path, default=Path("loss.png"), help="picture of the loss curve"
    )
    parser.add_argument("--sample-bytes", type=int, default=120, help="length of the sample")
    parser.add_argument("--data", type=Path, help="folder of *.py to read (the standard library)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no plan")
    args = parser.parse_args(argv)
    try:
        args.mesh_shape = tuple(int(n) for n in args.mesh.lower().split("x"))
    except ValueError:
        parser.error(f"--mesh {args.mesh}: expected sizes joined by x, as 8 or 2x4")
    if any(n < 1 for n in args.mesh_shape) or len(args.mesh_shape) > 2:
        parser.error(f"--mesh {args.mesh}: expected one or two sizes of at least 1")
    for name in ("steps", "batch_size", "num_micro_batches", "checkpoint_every", "decay_steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: expected at least 1")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed {args.seed}: expected at least 0 and less than 2**32")
    if not 0.0 < args.learning_rate < float("inf"):
        parser.error(f"--learning-rate {args.learning_rate}: expected a number above 0")
    if args.sample_bytes < 0:
        parser.error(f"--sample-bytes {args.sample_bytes}: expected at least 0")
    folder = args.checkpoint_dir
    if args.resume and folder is None:
        parser.error("--resume needs --checkpoint-dir")
    if folder is not None and folder.exists() and not folder.is_dir():
        parser.error(f"--checkpoint-dir {folder} is not a folder")
    if args.resume and not folder.exists():
        parser.error(f"--resume, but there is no folder {folder}")
    if args.batch_size % args.num_micro_batches:
        parser.error(
            f"--num-micro-batches {args.num_micro_batches} does not divide "
            f"--batch-size {args.batch_size}"
        )
    if args.method == "shard":
        data = args.mesh_shape[0] if len(args.mesh_shape) == 2 else 1
        if args.batch_size % data:
            parser.error(f"--batch-size {args.batch_size} is not divisible over {data} devices")
    return args


def read_text(folder: Path | None, limit: int = 4_000_000) -> np.ndarray[Any, Any]:
    """Bytes of the *.py files of the standard library, in a fixed order."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    chunks: list[bytes] = []
    total = 0
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        if "site-packages" in path.parts or total >= limit:
            continue
        chunks.append(path.read_bytes())
        total += len(chunks[-1])
    if total < 10_000:
        raise SystemExit(f"error: {root} holds {total} bytes of *.py, too little to train on")
    return np.frombuffer(b"".join(chunks), np.uint8).astype(np.int32)


def batches(
    text: np.ndarray[Any, Any], batch_size: int, length: int, seed: int, start: int
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Batch number i is a function of (seed, i) alone, so that a resumed run sees the same data."""
    step = start
    while True:
        rng = np.random.default_rng((seed, step))
        offsets = rng.integers(0, len(text) - length - 1, batch_size)
        yield {"tokens": np.stack([text[o : o + length + 1] for o in offsets])}
        step += 1


def make_step(args: argparse.Namespace, step_fn: Any, state: Any) -> tuple[Any, Any]:
    """The parallelized step and the state placed for it."""
    import jax
    from jax.sharding import Mesh

    from models.gpt import state_shardings

    if args.method == "single":
        return jax.jit(step_fn, donate_argnums=0), state
    shape: tuple[int, ...] = args.mesh_shape
    if args.method == "shard":
        shape = shape if len(shape) == 2 else (1, *shape)
        mesh = Mesh(np.array(jax.devices()[: np.prod(shape)]).reshape(shape), ("data", "model"))
        state = jax.device_put(state, state_shardings(state, mesh))
        parallel = autopar.parallelize(
            step_fn,
            method="shard",
            mesh=mesh,
            num_micro_batches=args.num_micro_batches,
            donate_argnums=0,
            batch_argnums=1 if args.num_micro_batches > 1 else None,
        )
        return parallel, state
    parallel = autopar.parallelize(
        step_fn,
        method=args.method,
        mesh=shape,
        num_micro_batches=args.num_micro_batches,
        donate_argnums=0,
        batch_argnums=1,
    )
    return parallel, state


def place_batch(args: argparse.Namespace, step: Any, batch: Any) -> Any:
    """In the method `shard` the user says where the batch lies."""
    if args.method != "shard":
        return batch
    import jax

    from models.gpt import batch_sharding

    return jax.device_put(batch, batch_sharding(step.mesh))


def sample(config: Any, params: Any, prompt: bytes, count: int, seed: int) -> str:
    """Text that the model continues `prompt` with."""
    import jax
    import jax.numpy as jnp

    from models.gpt import GPT

    model = GPT(config)
    params = jax.device_put(jax.tree.map(np.asarray, params), jax.devices()[0])

    @jax.jit
    def next_byte(params: Any, tokens: Any, position: Any, key: Any) -> Any:
        logits = model.apply({"params": params}, tokens)[0, position]
        return jax.random.categorical(key, logits / 0.8)

    window = config.sequence_length
    text = list(prompt)
    key = jax.random.key(seed)
    for _ in range(count):
        context = text[-window:]
        tokens = np.zeros((1, window), np.int32)
        tokens[0, : len(context)] = context
        key, used = jax.random.split(key)
        position = jnp.int32(len(context) - 1)
        text.append(int(next_byte(params, tokens, position, used)))
    return bytes(text).decode("utf-8", "replace")


def check_plot(path: Path) -> None:
    """Ends the program where `save_plot` could not write its picture after hours of training."""
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise SystemExit(f"error: --plot {path}: expected a name that ends in .{', .'.join(kinds)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: --plot {path}: {error.strerror}") from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SystemExit(f"error: --plot {path} cannot be written")


def save_plot(losses: list[float], start: int, path: Path, method: str) -> None:
    """The loss curve as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(range(start + 1, start + 1 + len(losses)), losses)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a byte)")
    axes.set_title(f"byte-level GPT, {method}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


class Checkpoints:
    """Orbax checkpoints of the state; absent without a folder."""

    def __init__(self, folder: Path | None, resume: bool) -> None:
        self._manager: Any = None
        if folder is None:
            return
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._manager = ocp.CheckpointManager(folder.resolve())
        latest = self._manager.latest_step()
        if resume and latest is None:
            raise SystemExit(f"error: --resume, but {folder} holds no checkpoint")
        if latest is not None and not resume:
            raise SystemExit(
                f"error: {folder} holds a checkpoint of step {latest}: add --resume, or choose "
                "another folder"
            )

    def save(self, step: int, state: Any) -> None:
        if self._manager is not None:
            self._manager.save(step, args=self._ocp.args.StandardSave(state))

    def restore(self, wanted: Any) -> tuple[Any, int]:
        """The last saved state, placed as `wanted` (arrays or shapes with shardings) says, and its
        step. The mesh may be another one than the state was saved from."""
        latest = self._manager.latest_step()
        restored = self._manager.restore(latest, args=self._ocp.args.StandardRestore(wanted))
        return restored, latest

    def close(self) -> None:
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()


def planned(step: Any, state: Any, batch: Any) -> Any:
    """The state as shapes that lie where the step wants them."""
    import jax

    if not hasattr(step, "get_executable"):
        return state
    (wanted, _), _ = step.get_executable(state, batch).input_shardings
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, wanted
    )


def train(argv: list[str] | None = None) -> list[float]:
    """Runs the example; gives the loss of every step."""
    args = parse_args(argv)
    check_plot(args.plot)
    if args.method != "single":
        autopar.init(devices=int(np.prod(args.mesh_shape)))
    from tqdm import tqdm

    from models.gpt import SIZES, init_state, make_optimizer, make_train_step

    if args.size not in SIZES:
        raise SystemExit(f"error: --size {args.size} is unknown (sizes: {', '.join(SIZES)})")
    config = SIZES[args.size]
    text = read_text(args.data)
    optimizer = make_optimizer(args.learning_rate, args.decay_steps)
    state = init_state(config, optimizer, args.seed)
    checkpoints = Checkpoints(args.checkpoint_dir, args.resume)
    start = 0
    step, state = make_step(args, make_train_step(config, optimizer), state)
    if args.resume:
        first = next(batches(text, args.batch_size, config.sequence_length, args.seed, 0))
        state, start = checkpoints.restore(planned(step, state, place_batch(args, step, first)))
    losses: list[float] = []
    data = batches(text, args.batch_size, config.sequence_length, args.seed, start)
    progress = tqdm(
        total=max(0, args.steps - start),
        desc=args.method,
        disable=args.quiet or not sys.stderr.isatty(),
    )
    tokens_per_step = args.batch_size * config.sequence_length
    began, counted, speed = time.perf_counter(), 0, 0.0
    for number in range(start + 1, args.steps + 1):
        state, loss = step(state, place_batch(args, step, next(data)))
        losses.append(float(loss))
        if number == start + 1:
            began = time.perf_counter()  # the first step compiles
        else:
            counted += tokens_per_step
            speed = counted / max(time.perf_counter() - began, 1e-9)
        progress.set_postfix(loss=f"{losses[-1]:.4f}", tokens_per_s=f"{speed:,.0f}")
        progress.update()
        if number % args.checkpoint_every == 0 or number == args.steps:
            checkpoints.save(number, state)
    progress.close()
    checkpoints.close()
    if not losses:
        print(f"nothing to do: the checkpoint is at step {start}, --steps is {args.steps}")
        return losses
    if args.method != "single" and not args.quiet:
        print(step.plan, end="\n\n")
    save_plot(losses, start, args.plot, args.method)
    first, last = f"{losses[0]:.4f} at step {start + 1}", f"{losses[-1]:.4f} at step {args.steps}"
    print(f"loss {first}, {last}; {speed:,.0f} tokens per second; curve in {args.plot}")
    if args.sample_bytes > 0:
        written = sample(config, state["params"], b"def ", args.sample_bytes, args.seed)
        print(f"sample: {written!r}")
    return losses


def main() -> int:
    """Runs the example; what is wrong with its input is one line."""
    try:
        train()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
