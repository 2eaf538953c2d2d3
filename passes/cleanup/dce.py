"""dce: dead code elimination."""

from xdsl.transforms.dead_code_elimination import DeadCodeElimination


class DcePass(DeadCodeElimination):
    """Removes operations without effects whose results nobody uses.

    Needs: nothing. Guarantees: the same meaning; functions stay.
    """

    name = "dce"
