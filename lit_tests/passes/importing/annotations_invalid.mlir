// Every pass that reads the user's shardings refuses those that do not fit, in the same words.
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --sharding-propagation
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --auto-shard
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --annotate-method
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --split-step="num-micro-batches=2"
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --shard-attributes-to-ops
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --export-sdy
// RUN: autopar-opt %s --split-input-file --verify-diagnostics --insert-reshards

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{argument 0 of @main: sharding <@mesh, [{"q"}]> is not possible on grid @mesh: axis "q" does not exist; the axes are ["a"=2, "b"=4]}}
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

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'autopar.constraint' op: sharding <@mesh, [{"a", "a"}]> uses axis "a" twice}}
  %0 = autopar.constraint %x {sharding = #autopar.sharding<@mesh, [{"a", "a"}]>} : tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'stablehlo.sine' op: sharding <@nope, [{"a"}]> names grid @nope, which is not declared (declared: @mesh)}}
  %0 = stablehlo.sine %x {autopar.sharding = [#autopar.sharding<@nope, [{"a"}]>]} : tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @main(%x: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'stablehlo.sine' op has 0 shardings for 1 results}}
  %0 = stablehlo.sine %x {autopar.sharding = []} : tensor<8xf32>
  return %0 : tensor<8xf32>
}
