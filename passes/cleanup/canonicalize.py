"""canonicalize: xDSL's patterns of every dialect, until nothing changes."""

from xdsl.transforms.canonicalize import CanonicalizePass as XdslCanonicalize


class CanonicalizePass(XdslCanonicalize):
    """Applies the canonicalization patterns of the operations and removes dead ones.

    Needs: nothing. Guarantees: the same meaning; ops with effects, barriers that are used, and
    custom_calls with side effects stay.
    """

    name = "canonicalize"
