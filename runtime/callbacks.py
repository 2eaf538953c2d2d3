"""Host callbacks whose exceptions reach the caller.

A callback (pure_callback, io_callback, jax.debug.callback) runs on one device (in a shard_map on
each), and others wait in a collective for what it returns: were it to raise there, they would wait
until XLA gives up and ends the process. So a callback here always returns; what it raised is kept,
and raised again where the run is awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, ModuleOp
from xdsl.ir import Attribute, Operation

from autopar.dialects.constants import numpy_dtype
from autopar.dialects.rules.access import backend_config
from autopar.dialects.tensors import shape_of, tensor_type
from autopar.passes.partition.effects import is_python_callback

from .in_flight import in_flight

Array = np.ndarray[Any, Any]
Callback = Callable[..., tuple[Any, ...]]
"""What JAX hands to XLA: arrays in, a tuple of arrays out."""


class HostCallbacks:
    """The host callbacks of one program: `safe` are to be given to XLA in place of JAX's own."""

    def __init__(self, callbacks: Sequence[Callback], module: ModuleOp) -> None:
        """`module`: the program that calls them, by their place in the list."""
        results = dict(_results_by_index(module))
        self._raised: BaseException | None = None
        self.safe = [
            self._guarded(callback, results.get(index, ()))
            for index, callback in enumerate(callbacks)
        ]

    def _guarded(self, callback: Callback, results: Sequence[Array]) -> Callback:
        def call(*arguments: Any) -> tuple[Any, ...]:
            if self._raised is None:  # after that, arguments may come from the zeros below
                try:
                    with in_flight.inside_a_run():
                        return callback(*arguments)
                except BaseException as error:  # SystemExit too would leave the others waiting
                    self._raised = error
            return tuple(results)

        return call

    def raise_first(self) -> None:
        """Raises what the first failing callback of the awaited run raised, if one did."""
        error, self._raised = self._raised, None
        if error is not None:
            raise error


def _results_by_index(module: ModuleOp) -> Iterator[tuple[int, list[Array]]]:
    """For each callback that the module calls: zeros of what it returns."""
    for op in module.walk():
        if is_python_callback(op):
            yield _index(op), [_zeros(result.type) for result in op.results]


def _index(call: Operation) -> int:
    index = backend_config(call)["index"]
    assert isinstance(index, IntegerAttr)
    return index.value.data


def _zeros(type: Attribute) -> Array:
    return np.zeros(shape_of(type), numpy_dtype(tensor_type(type).element_type))
