"""What convert-shard-to-stablehlo is made of."""
