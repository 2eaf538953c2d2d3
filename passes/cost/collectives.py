"""Bytes that collectives move, by the ring algorithms.

Bytes a device sends for a collective in a group of `p` devices (Thakur, Rabenseifner, Gropp 2005,
"Optimization of Collective Communication Operations in MPICH"; what NCCL's ring algorithms reach):

    all_reduce                   2 (p - 1) / p  of the full buffer
    all_gather, reduce_scatter     (p - 1) / p  of the full (gathered, unscattered) buffer
    all_to_all                     (p - 1) / p  of the local buffer
    permute, shift               the local buffer
    collective_broadcast, collective_reduce (one root)  the full buffer, once through the ring

shard.broadcast and shard.reduce are the all_gather and all_reduce that they become.
"""

from __future__ import annotations

LATENCY_BOUND_BYTES = 2**20
"""The most bytes that are worth moving together: beyond, the latency of a message (10 us at 50 GB/s
is half a MiB) does not count any more."""


def all_reduce_bytes(num_bytes: float, group: int) -> float:
    """`num_bytes`: the buffer that each device holds before and after."""
    return 2 * (group - 1) / group * num_bytes


def all_gather_bytes(local_bytes: float, group: int) -> float:
    """`local_bytes`: what each device holds before the gather."""
    return (group - 1) * local_bytes


def reduce_scatter_bytes(num_bytes: float, group: int) -> float:
    """`num_bytes`: what each device holds before the reduction."""
    return (group - 1) / group * num_bytes


def all_to_all_bytes(local_bytes: float, group: int) -> float:
    """`local_bytes`: what each device holds, before and after."""
    return (group - 1) / group * local_bytes


def permute_bytes(local_bytes: float) -> float:
    """`local_bytes`: what a device sends to one other."""
    return local_bytes


def one_root_bytes(num_bytes: float, group: int) -> float:
    """`num_bytes`: what the root gives all (broadcast), or gets from all combined (reduce): it
    goes round the ring once, in pieces."""
    return num_bytes if group > 1 else 0.0
