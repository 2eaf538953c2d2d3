"""What a program costs: seconds, bytes that are sent, memory of a device.

Prices:
- cluster.py: devices and links, from TOML files (`presets/`);
- prices.py: seconds of compute, traffic and collectives;
- collectives.py: bytes of collectives, by the ring algorithms;
- flops.py: floating point operations;
- loops.py: how often loop bodies run.

A partitioned program:
- program.py: seconds of one run;
- report.py: its collectives;
- merging.py: the order once collectives are merged;
- fusion.py: which values lie in memory, and what is read of them;
- kept.py: which these are;
- op_kinds.py: what XLA makes of an op.

Memory:
- handover.py: results in the memory of arguments, and what is copied for them;
- liveness.py: the most that is in use at once;
- packing.py: the room that this takes;
- order.py: the order in which a block runs;
- schedule.py: what it reads, writes and copies, step by step;
- early.py: what should run earlier, to free memory.
"""
