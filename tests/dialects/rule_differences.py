"""Where the kinds of factors in our sharding rules differ from Shardy's, and why.

Read by `test_rules_vs_shardy.py`, and by `tools/gen_docs.py` for the table in docs/propagation.md.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """What is said of a factor of an op."""

    factor: str
    shardy: str
    here: str


DIFFERENCES = {
    "stablehlo.concatenate": Difference(
        "the concatenated dimension",
        "need_replication, unless all operands are slices",
        "permutation: parts are shifted",
    ),
    "stablehlo.convolution": Difference(
        "offsets in a window",
        "reduction",
        "need_replication: parts of the kernel meet every part of the input",
    ),
    "stablehlo.dynamic_update_slice": Difference(
        "a dimension that the update is a part of",
        "permutation from jaxlib 0.11 on",
        "pass-through, as jaxlib 0.10 has it: the operand's layout goes through",
    ),
    "stablehlo.pad": Difference(
        "a padded dimension of unchanged size",
        "pass-through",
        "permutation: data moves all the same",
    ),
    "stablehlo.reduce": Difference(
        "a body that is no known reducer (argmax)", "reduction", "need_replication"
    ),
    "stablehlo.scatter": Difference(
        "updates split over the batch, body no reducer", "reduction", "need_replication"
    ),
    "stablehlo.triangular_solve": Difference(
        "columns (or rows) of b", "need_replication", "pass-through: systems of their own"
    ),
}
"""Ops whose rule differs in the kinds of factors only (propagation goes by the factors)."""

OURS_ONLY = {
    "stablehlo.iota",
    "stablehlo.rng",
    "stablehlo.map",
    "stablehlo.broadcast",
    "stablehlo.optimization_barrier",
    "stablehlo.custom_call",
    "stablehlo.batch_norm_training",
    "stablehlo.batch_norm_inference",
    "stablehlo.batch_norm_grad",
    "stablehlo.set_dimension_size",
}
"""Ops that Shardy has no rule for (its data-flow edges serve the barrier)."""
