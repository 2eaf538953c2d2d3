"""xDSL's verification, with the place of what is wrong."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.utils.exceptions import DiagnosticException, VerifyException

from autopar.dialects.attributes import AttributeChecker
from autopar.dialects.diagnostics import DiagnosticError


def verify_op(op: Operation) -> None:
    """xDSL's verification of one operation (its regions aside), as a DiagnosticError."""
    try:
        op.verify(verify_nested_ops=False)
    except (VerifyException, DiagnosticException) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise DiagnosticError(op, str(cause)) from None


def verify(module: ModuleOp) -> None:
    """xDSL's verification of a module; slow, for user text where there is no jaxlib."""
    check = AttributeChecker()
    for op in module.walk():
        verify_op(op)
        check(op)
