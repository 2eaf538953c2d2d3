// RUN: autopar-opt %s --sharding-propagation --split-input-file --verify-diagnostics

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{argument 0 of @unknown_axis: sharding <@mesh, [{"q"}]> is not possible on grid @mesh: axis "q" does not exist; the axes are ["a"=2, "b"=4]}}
func.func @unknown_axis(%x: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"q"}]>}) -> tensor<8xf32> {
  func.return %x : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{argument 0 of @twice: sharding <@mesh, [{"a"}, {"a"}]> uses axis "a" twice}}
func.func @twice(%x: tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {"a"}]>}) -> tensor<8x8xf32> {
  func.return %x : tensor<8x8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
// expected-error@+1 {{result 0 of @rank: sharding <@mesh, [{"a"}]> has 1 dimensions, the tensor has 2}}
func.func @rank(%x: tensor<8x8xf32>) -> (tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}]>}) {
  func.return %x : tensor<8x8xf32>
}

// -----

shard.grid @mesh(shape = 8) {axis_names = ["x"]}
// expected-error@+1 {{argument 0 of @main shares the buffer of result 5 by tf.aliasing_output, and the last one is 0: leave the attribute out, or write jax.buffer_donor}}
func.func @main(%a: tensor<8xf32> {tf.aliasing_output = 5 : i32}) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @none(%x: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'stablehlo.sine' op has 0 shardings for 1 results}}
  %0 = stablehlo.sine %x {autopar.sharding = []} : tensor<8xf32>
  func.return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 8) {axis_names = ["x"]}
// expected-error@+1 {{argument 1 of @main shares the buffer of result 0 by tf.aliasing_output, as argument 0 does}}
func.func @main(%a: tensor<8xf32> {tf.aliasing_output = 0 : i32}, %b: tensor<8xf32> {tf.aliasing_output = 0 : i32}) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 8) {axis_names = ["x"]}
// expected-error@+1 {{argument 0 of @main shares the buffer of result 0 by tf.aliasing_output, of type tensor<8xf32>, and is itself tensor<4xf32>}}
func.func @main(%a: tensor<4xf32> {tf.aliasing_output = 0 : i32}, %b: tensor<8xf32>) -> tensor<8xf32> {
  return %b : tensor<8xf32>
}

// -----

// expected-error@+1 {{grid @mesh: the size of axis '1' is not known (?); a program is partitioned for a fixed number of devices: write it}}
shard.grid @mesh(shape = 2x?)
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @number(%x: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'stablehlo.sine' op: autopar.sharding = 1 : i64: expected a list of shardings}}
  %0 = stablehlo.sine %x {autopar.sharding = 1} : tensor<8xf32>
  func.return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  // expected-error@+1 {{is on no grid of the module: run import-sdy first}}
  %0 = sdy.manual_computation(%a) in_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] out_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] manual_axes={} (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %0 : tensor<8x16xf32>
}

// -----

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  // expected-error@+1 {{the sdy.sharding_rule of 'stablehlo.tanh' has factor 0 of size 7, and the dimensions that name it have the sizes 8, 8}}
  %0 = stablehlo.tanh %a {sdy.sharding_rule = #sdy.op_sharding_rule<([i, j])->([i, j]) {i=7, j=16}>} : tensor<8x16xf32>
  return %0 : tensor<8x16xf32>
}
