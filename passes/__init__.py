"""Passes over the IR, by name. `PASSES` maps a pass name to "module:Class", imported when used."""

PASSES: dict[str, str] = {
    "convert-mesh-to-shard": "autopar.passes.importing.convert_mesh_to_shard:ConvertMeshToShardPass",
    "convert-shard-to-stablehlo": "autopar.passes.partition.convert_shard_to_stablehlo:ConvertShardToStablehloPass",
    "export-sdy": "autopar.passes.importing.export_sdy:ExportSdyPass",
    "import-sdy": "autopar.passes.importing.import_sdy:ImportSdyPass",
    "inline": "autopar.passes.importing.inline:InlinePass",
    "shard-attributes-to-ops": "autopar.passes.importing.shard_attributes_to_ops:ShardAttributesToOpsPass",
    "sharding-propagation": "autopar.passes.sharding.sharding_propagation:ShardingPropagationPass",
    "shard-ops-to-attributes": "autopar.passes.importing.shard_ops_to_attributes:ShardOpsToAttributesPass",
}
