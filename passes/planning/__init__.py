"""Choosing shardings by the cost model: auto-shard.

`planner.make_plan` builds a `PlanGraph`; a `Search` finds its cheapest choices, within a limit by
`MemoryPrices`; a `Trial` partitions what is written, to see if it fits and what it takes. A `Road`
leads from one to the other; plans that fit, and rivals, are sought on it.

The pass and its plan:
- auto_shard.py: the pass, its options;
- planner.py: from a module to its plan;
- road.py: searches a plan, writes it, tries it; memory is freed late, or early;
- trial.py: a plan's partitioned program, what it takes;
- clock.py: how long the parts of planning take;
- writing.py: a plan written into the program;
- refusals.py: what is said where no plan does;
- uneven.py: the remark on what no axis divides.

Plans that fit:
- fitting.py: the cheapest, with memory freed late or early;
- descent.py: the same with memory freed one way, sought lower and lower.

The graph, its choices:
- places.py: which values lie alike, and where they may lie;
- plan_graph.py: what each choice costs, and what each pair costs together;
- axis_orders.py: in which order axes split one dimension;
- demands.py: what options allow and demand;
- stated.py: what the program and options say of arguments, and who goes first;
- joins.py: concatenations of slices;
- loop_sums.py: what loops add up;
- joint_sums.py: sums of what several ops give;
- updates.py: where gradients become state;
- waiting.py: which collectives wait for others.

Its prices:
- op_prices.py: strategies of ops, their compute and traffic;
- reshard_prices.py: reshardings;
- exchange_prices.py: what devices fetch of each other's parts;
- sum_prices.py: partial sums up to a loop's end;
- traffic.py: reading and writing memory.

Memory:
- footprint.py: what is alive when, by where it lies;
- memory_prices.py: prices on memory that make plans fit;
- again.py: which reshards are made again rather than held.

The search:
- search.py: the cheapest choices within a limit;
- problems.py: problems of the solver;
- repeats.py: parts that repeat, decided once;
- coarse.py: plans on coarser grids: to begin with, and within limits.

Rivals:
- rivals.py: plans that the search is held against;
- completed.py: these as a search completes them;
- rearranged.py: plans whose arguments lie elsewhere;
- contest.py: the plan that was found held against them.

Explaining:
- explain.py: why a value lies so, and what else would cost;
- explain_text.py: that as text;
- reasons.py: who decided;
- alternatives.py: what other choices would cost;
- decided.py: the choices of decisions that were written down;
- links.py: what nodes and edges are about;
- naming.py: values by what a user knows of them;
- words.py: shardings, times, sizes in words;
- modelled.py: what a partitioned program comes to;
- report.py: a plan as JSON and as a table.
"""
