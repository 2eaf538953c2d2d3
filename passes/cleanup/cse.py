"""cse: common subexpression elimination."""

from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination


class CsePass(CommonSubexpressionElimination):
    """Merges operations without effects that compute the same from the same operands.

    Needs: nothing. Guarantees: the same meaning. stablehlo.optimization_barrier is never merged
    (rematerialised code stays apart), and collectives are merged only if their channel handles are
    equal too.
    """

    name = "cse"
