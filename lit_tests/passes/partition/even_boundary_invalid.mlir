// RUN: autopar-opt %s --even-boundary --split-input-file --verify-diagnostics

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{argument 0 of @main: sharding <@mesh, [{"q"}]> is not possible on grid @mesh: axis "q" does not exist}}
func.func @main(%x: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"q"}]>}) -> tensor<8xf32> {
  return %x : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{result 0 of @main: sharding <@mesh, [{"a"}, {"b"}]> has 2 dimensions, the tensor has 1}}
func.func @main(%x: tensor<8xf32>) -> (tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {"b"}]>}) {
  return %x : tensor<8xf32>
}

// -----

// expected-error@unknown {{even-boundary needs a device grid, and the module declares none: write a shard.grid}}
func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
  return %x : tensor<8xf32>
}
