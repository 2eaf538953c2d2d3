"""The only ordered lists of passes, each with the reason for its place.

A pipeline is a list of pass specifications as the command line has them (`name{option=value}`).
"""

from __future__ import annotations

IMPORT = (
    "import-sdy",  # meshes and shardings in our own attributes, before anything reads them
    "inline",  # propagation and partitioning see whole data flow, not calls
    "recognize-batching-dims",  # after inline, which shows where indices come from
    "dce",  # what nobody reads gets no sharding from its users, and would be replicated
)
METHOD = (
    "split-step",  # of one microbatch's program: sees the batch before anything is split
    "annotate-method",  # propagation starts from what the method says of the boundary
)
PROPAGATE = ("sharding-propagation",)  # decides where every value lies
BOUNDARY = ("even-boundary",)  # before deciding: jax.Arrays at the boundary cannot be padded
DECIDE = ("insert-reshards",)  # needs all shardings; makes every resharding an op
PARTITION = (
    "shard-partition",  # local shapes
    "optimize-collectives",  # sees collectives next to each other only after partitioning
    "free-early",  # weighs what a device has in memory, with its collectives as they will run
)
LOWER = ("convert-shard-to-stablehlo",)  # last: replica groups know no grid axes

LEVELS: dict[str, tuple[str, ...]] = {
    "stablehlo": (),
    "sharded": (*IMPORT, *METHOD, *PROPAGATE, *BOUNDARY),
    "decided": DECIDE,
    "spmd": PARTITION,
    "per-device": LOWER,
}
"""The levels that `.as_text(level)` shows, in order, each with the passes from the one before."""

RUN = (
    "import-sdy",
    "sharding-propagation",
    "shard-partition",
    "optimize-collectives",
    "free-early",
    "convert-shard-to-stablehlo",
)
"""What `autopar run` does by default with a global, annotated module."""
