"""Passes over the IR, by name.

`PASSES` maps a pass name to "module:Class", imported when used: a command line that runs one pass
pays for one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from autopar.dialects.spelling import did_you_mean

if TYPE_CHECKING:
    from xdsl.passes import ModulePass

_IMPORTING = "autopar.passes.importing"
_PARTITION = "autopar.passes.partition"

PASSES: dict[str, str] = {
    "annotate-method": f"{_IMPORTING}.annotate_method:AnnotateMethodPass",
    "auto-shard": "autopar.passes.planning.auto_shard:AutoShardPass",
    "canonicalize": "autopar.passes.cleanup.canonicalize:CanonicalizePass",
    "convert-mesh-to-shard": f"{_IMPORTING}.convert_mesh_to_shard:ConvertMeshToShardPass",
    "convert-shard-to-stablehlo": (
        f"{_PARTITION}.convert_shard_to_stablehlo:ConvertShardToStablehloPass"
    ),
    "cse": "autopar.passes.cleanup.cse:CsePass",
    "dce": "autopar.passes.cleanup.dce:DcePass",
    "even-boundary": f"{_PARTITION}.even_boundary:EvenBoundaryPass",
    "export-sdy": f"{_IMPORTING}.export_sdy:ExportSdyPass",
    "free-early": f"{_PARTITION}.free_early:FreeEarlyPass",
    "import-sdy": f"{_IMPORTING}.import_sdy:ImportSdyPass",
    "inline": f"{_IMPORTING}.inline:InlinePass",
    "insert-reshards": f"{_PARTITION}.insert_reshards:InsertReshardsPass",
    "optimize-collectives": f"{_PARTITION}.optimize_collectives:OptimizeCollectivesPass",
    "recognize-batching-dims": (f"{_IMPORTING}.recognize_batching_dims:RecognizeBatchingDimsPass"),
    "shard-attributes-to-ops": f"{_IMPORTING}.shard_attributes_to_ops:ShardAttributesToOpsPass",
    "shard-ops-to-attributes": f"{_IMPORTING}.shard_ops_to_attributes:ShardOpsToAttributesPass",
    "shard-partition": f"{_PARTITION}.shard_partition:ShardPartitionPass",
    "sharding-propagation": (
        "autopar.passes.sharding.sharding_propagation:ShardingPropagationPass"
    ),
    "split-step": "autopar.passes.pipelining.split_step:SplitStepPass",
}


_loaded: dict[str, type[ModulePass]] = {}


class PipelineError(ValueError):
    """A pipeline that names an unknown pass or has a wrong option; the message is one line."""


def load_pass(name: str) -> type[ModulePass]:
    """The class of a pass; PipelineError with the nearest name if there is none."""
    cls = _loaded.get(name)
    if cls is None:
        if name not in PASSES:
            raise PipelineError(f"unknown pass '{name}'{did_you_mean(name, PASSES)}")
        module, _, attribute = PASSES[name].partition(":")
        cls = _loaded[name] = getattr(import_module(module), attribute)
    return cls


def register_pass(cls: type[ModulePass]) -> type[ModulePass]:
    """Adds a pass of a third party to `PASSES`, by its `name`; also as a class decorator.

    Its fields are its options, as of xDSL's passes. PipelineError where the name is taken.
    """
    target = f"{cls.__module__}:{cls.__qualname__}"
    if PASSES.get(cls.name, target) != target:
        raise PipelineError(f"pass '{cls.name}' is registered already, as {PASSES[cls.name]}")
    PASSES[cls.name] = target
    _loaded[cls.name] = cls
    return cls
