"""Passes that decide how values are sharded."""
