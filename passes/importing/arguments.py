"""What the arguments of a step are: parameters, optimizer state, batch, as said or by data flow."""

from __future__ import annotations

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, SSAValue

from autopar.dialects.autopar import ALIASING_OUTPUT, BATCH_DIM, BUFFER_DONOR, KIND, entries_of
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.tensors import is_tensor

from .phases import PhaseNames

STATE_KINDS = ("parameter", "optimizer_state")
"""What a step updates."""
KINDS = (*STATE_KINDS, "batch", "other")
"""What `autopar.kind` may say."""
_DONATED = (ALIASING_OUTPUT, BUFFER_DONOR)
"""What says that an argument is state."""


def argument_kinds(func: FuncOp) -> list[str]:
    """The kind of each argument: as `autopar.kind` says, else inferred."""
    args = func.body.block.args
    entries = entries_of(func.arg_attrs, len(args))
    phases = PhaseNames()
    return [
        _stated_kind(func, index, entry) or _inferred_kind(arg, entry, phases)
        for index, (arg, entry) in enumerate(zip(args, entries, strict=True))
    ]


def remark_unknown_kinds(func: FuncOp, what: str) -> None:
    """A remark where `what` is about kinds, and nothing says which arguments are the state: then
    parameters, too, are taken for batches."""
    args = func.body.block.args
    entries = entries_of(func.arg_attrs, len(args))
    said = any(key in entry.data for entry in entries for key in (KIND, *_DONATED))
    if args and not said:
        remark(
            func,
            f"{what}: no argument is donated, and none has {KIND}: all tensors are taken for the "
            "batch; lower the step with the donation of its state, jax.jit(step, donate_argnums=…)",
        )


def _stated_kind(func: FuncOp, index: int, entry: DictionaryAttr) -> str | None:
    kind = entry.data.get(KIND)
    if kind is None:
        return None
    if not isinstance(kind, StringAttr) or kind.data not in KINDS:
        raise DiagnosticError(
            func, f"argument {index}: {KIND} = {kind} is none of {', '.join(KINDS)}"
        )
    return kind.data


def _inferred_kind(arg: BlockArgument, entry: DictionaryAttr, phases: PhaseNames) -> str:
    shape = arg.type.get_shape() if is_tensor(arg.type) else ()
    if any(key in entry.data for key in _DONATED):
        return state_kind(arg, phases)
    return "batch" if shape else "other"


def state_kind(arg: BlockArgument, phases: PhaseNames) -> str:
    """Parameter or optimizer state: the model computes with the former. Scalars are neither."""
    if not is_tensor(arg.type) or not arg.type.get_shape():
        return "other"
    return "parameter" if _feeds_contraction(arg, phases) else "optimizer_state"


_CONTRACTIONS = frozenset(
    {
        "stablehlo.broadcast_in_dim",
        "stablehlo.convolution",
        "stablehlo.custom_call",
        "stablehlo.dot_general",
        "stablehlo.gather",
        "stablehlo.while",
    }
)
_VIEWS = frozenset(
    {
        "stablehlo.concatenate",
        "stablehlo.convert",
        "stablehlo.reshape",
        "stablehlo.slice",
        "stablehlo.transpose",
    }
)


def _feeds_contraction(arg: SSAValue, phases: PhaseNames) -> bool:
    """Whether a dot, convolution, custom_call, look-up or loop reads the value, or it is broadcast:
    as it is, in another form, or through what the forward and backward phases compute of it."""
    seen, stack = {arg}, [arg]
    while stack:
        for use in stack.pop().uses:
            user = use.operation
            if user.name in _CONTRACTIONS:
                return True
            if user.name in _VIEWS or phases.of(user) != "update":
                fresh = [result for result in user.results if result not in seen]
                seen.update(fresh)
                stack += fresh
    return False


def batch_dim(func: FuncOp, index: int) -> int:
    """The batch dimension of a batch argument (`autopar.batch_dim`, 0 where absent);
    DiagnosticError where it has no such dimension."""
    entry = entries_of(func.arg_attrs, len(func.body.block.args))[index]
    attr = entry.data.get(BATCH_DIM)
    if attr is None:
        return 0
    type_ = func.body.block.args[index].type
    rank = len(type_.get_shape()) if is_tensor(type_) else 0
    if not isinstance(attr, IntegerAttr) or not 0 <= attr.value.data < rank:
        raise DiagnosticError(
            func,
            f"argument {index}: {BATCH_DIM} = {attr} is no dimension of {type_}, which has "
            f"{rank}, counted from 0",
        )
    return attr.value.data
