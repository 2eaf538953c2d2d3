"""The combinatorial solver behind auto-sharding: one strategy for each node at the least cost.

Its problems are those of the public IOPDDL benchmark (`problem`), its door is `solve.solve`. It
needs NumPy; OR-Tools is imported when a core is small enough for branch and bound.
"""
