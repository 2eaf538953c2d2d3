"""Choosing shardings by the cost model: auto-shard.

- places.py: which values lie alike, and where they may lie;
- plan_graph.py: the choices of a program, what each costs, and what each pair costs together;
- auto_shard.py: the pass: builds the graph, has it solved, writes what was chosen.
"""
