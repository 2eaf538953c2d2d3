"""Rules of `stablehlo.custom_call` by target.

Targets that are not here have no rule: they are replicated (`register_custom_call_rule` adds one).
"""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation
from xdsl.utils.hints import isa

from .access import backend_config, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .elementwise import pointwise_rule
from .reduction import last_dim_rule
from .registry import custom_call_rule

REPLICATE = FactorKind.NEED_REPLICATION


@custom_call_rule(
    "annotate_device_placement",
    "InspectSharding",
    "LayoutConstraint",
    "MoveToDevice",
    "MoveToHost",
    "Sharding",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
)
def annotation(op: Operation) -> ShardingRule | None:
    if not op.results or result_shapes(op) != operand_shapes(op):
        return None
    return pointwise_rule(op, linear=((0,),), moves_data=True)


@custom_call_rule("mhlo.erf", "X64SplitHigh", "X64SplitLow", "X64Combine")
def elementwise(op: Operation) -> ShardingRule:
    return pointwise_rule(op)


@custom_call_rule("mhlo.topk")
def top_k(op: Operation) -> ShardingRule:
    return last_dim_rule(op)


@custom_call_rule("ApproxTopK", "PartialReduce")
def approximate_top_k(op: Operation) -> ShardingRule:
    """Operands: values, indices, two scalars; the reduced dimension needs replication."""
    shapes, results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder(shapes, results)
    reduced = _reduction_dim(op)
    for dim, (old, new) in enumerate(zip(shapes[0], results[0], strict=True)):
        if old == new and dim != reduced:
            builder.factor([dim, dim, None, None], [dim, dim], old)
        else:
            builder.factor([dim, dim, None, None], [None, None], old, REPLICATE)
            builder.factor([None] * 4, [dim, dim], new, REPLICATE, blocked=True)
    return builder.build()


def _reduction_dim(op: Operation) -> int:
    """Which dimension is reduced; its size stays the same where all of it is wanted."""
    dim = backend_config(op).get("reduction_dim")
    if isa(dim, IntegerAttr):
        return dim.value.data
    return len(operand_shapes(op)[0]) - 1


def batched_rule(op: Operation, core_rank: int = 2) -> ShardingRule:
    """Leading dimensions that all tensors of the call have in common are batch dimensions.

    Of the first operand's dimensions the last `core_rank` are one problem's own: two of a matrix,
    one of a diagonal. A batch dimension is common to the first operand, to every result and to
    every operand that has rank enough; what is left needs replication.
    """
    shapes, results = operand_shapes(op), result_shapes(op)
    batch = shapes[0][:-core_rank]
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(batch):
        if any(shape[: dim + 1] != batch[: dim + 1] for shape in results):
            break

        def at(shape: tuple[int, ...], dim: int = dim) -> int | None:
            return dim if shape[: dim + 1] == batch[: dim + 1] else None

        builder.factor([at(s) for s in shapes], [at(s) for s in results], size)
    return builder.build()


LAPACK = [
    f"lapack_{kind}{routine}_ffi"
    for kind in "sdcz"
    for routine in (
        "potrf getrf geqrf gelqf gesdd gesvd orgqr ungqr syevd heevd geev gees gehrd sytrd hetrd "
        "trsm geqp3 ormqr unmqr"
    ).split()
]
SOLVERS = [
    f"{prefix}_{routine}"
    for prefix in ("cusolver", "hipsolver", "cublas", "hipblas", "cu", "hip")
    for routine in (
        "getrf_ffi geqrf_ffi orgqr_ffi syevd_ffi syrk_ffi gesvd_ffi gesvdj_ffi potrf_ffi "
        "sytrd_ffi csrlsvqr_ffi getrf_batched_ffi geqrf_batched_ffi trsm_batched_ffi ormqr_ffi"
    ).split()
] + [f"{gpu}hybrid_{kind}" for gpu in ("cu", "hip") for kind in ("eig_real", "eig_comp", "geqp3")]
TRIDIAGONAL = [
    *(f"lapack_{kind}gtsv_ffi" for kind in "sdcz"),
    *(f"{gpu}sparse_gtsv2_ffi" for gpu in ("cu", "hip")),
    "tridiagonal_solve_perturbed_ffi",
    *(f"{gpu}_tridiagonal_solve_perturbed" for gpu in ("cu", "hip")),
]


@custom_call_rule(*LAPACK, *SOLVERS, "Cholesky", "LuDecomposition", "Qr", "QrDecompositionBlock",
                  "Eigh", "ProductOfElementaryHouseholderReflectors", "CompactWyHelper",
                  "InvertDiagBlocksLowerTriangular", "InvertDiagBlocksUpperTriangular")  # fmt: skip
def decomposition(op: Operation) -> ShardingRule | None:
    if not op.operands or not op.results or len(operand_shapes(op)[0]) < 2:
        return None
    return batched_rule(op)


@custom_call_rule(*TRIDIAGONAL)
def tridiagonal_solve(op: Operation) -> ShardingRule | None:
    """Three diagonals [..., n] and the right hand sides [..., n, k]."""
    if not op.operands or not op.results or not operand_shapes(op)[0]:
        return None
    return batched_rule(op, core_rank=1)


@custom_call_rule("cu_lu_pivots_to_permutation", "hip_lu_pivots_to_permutation")
def lu_pivots(op: Operation) -> ShardingRule:
    """Pivots [..., k] to permutations [..., n]: all but the last dimension are batch."""
    shapes, results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(shapes[0][:-1]):
        builder.factor([dim], [dim] * len(results), size)
    return builder.build()
