"""Programs of many threads at once: their runs never take more threads than there are."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from autopar.runtime.in_flight import InFlight

PROGRAM = """
import threading
import autopar
autopar.init(devices=8)
import jax, jax.numpy as jnp, numpy as np

p, x = np.ones((64, 64), np.float32) / 64, np.ones((64, 64), np.float32)

def make(k):
    def step(p, x):
        return p - (jnp.tanh(x @ p) * k).mean(0)[:, None] * 1e-3 @ jnp.ones((1, 64)), (x @ p).sum()
    return autopar.parallelize(step, method="dp", batch_argnums=1)

functions = [make(float(i)) for i in range(16)]
jax.block_until_ready([f(p, x) for f in functions])

def work(f):
    q = p
    for _ in range(60):
        q, _ = f(q, x)
    jax.block_until_ready(q)

threads = [threading.Thread(target=work, args=(f,)) for f in functions]
[t.start() for t in threads]
[t.join() for t in threads]
print("done", flush=True)
"""


def test_many_threads() -> None:
    """16 threads, each with a program of its own: XLA's pool has threads for 8 programs."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.strip() == "done", done.stderr


class _Token:
    def __init__(self, running: list[int]) -> None:
        self._running = running
        self._waited = False

    def block_until_ready(self) -> None:
        assert not self._waited
        self._waited = True
        self._running.pop()


def test_never_more_than_the_limit() -> None:
    flight, running, most = InFlight(lambda: 3), list[int](), list[int]()

    def work() -> None:
        for _ in range(50):
            with flight.slot() as slot:
                running.append(1)
                most.append(len(running))
                slot.token = _Token(running)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most) == 3


def test_a_run_that_fails_gives_its_slot_back() -> None:
    flight = InFlight(lambda: 1)
    for _ in range(3):
        with pytest.raises(RuntimeError), flight.slot():
            raise RuntimeError
    token: Any = _Token([1])
    with flight.slot() as slot:
        slot.token = token


def test_a_callback_takes_no_slot() -> None:
    flight = InFlight(lambda: 1)
    with flight.slot() as outer:
        with flight.inside_a_run(), flight.slot() as inner:
            inner.token = object()
        outer.token = _Token([1])
    with flight.slot() as slot:
        slot.token = _Token([1])
