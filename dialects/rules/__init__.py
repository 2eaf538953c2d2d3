"""Sharding rules: the one place that knows how each op may be split, a file per op family."""
