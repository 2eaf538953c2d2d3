// RUN: autopar-opt %s --insert-reshards --split-input-file --verify-diagnostics

// expected-error@+1 {{insert-reshards needs a device grid, and the module declares none: write a shard.grid (sdy.mesh) into it, or run annotate-method or auto-shard before, which take grid=2x4}}
module {
  func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
    return %a : tensor<8xf32>
  }
}

// -----

shard.grid @mesh(shape = 2)
// expected-error@+1 {{a program is partitioned over one grid, but the module has @mesh, @other}}
shard.grid @other(shape = 4)
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'stablehlo.tanh' has a strategy of 2 factors, its rule 1}}
  %0 = "stablehlo.tanh"(%a) {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}]>], autopar.strategy = #autopar.strategy<[["x"], []]>} : (tensor<8xf32>) -> tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{the strategy of 'stablehlo.tanh' is not possible: axis "w" does not exist}}
  %0 = "stablehlo.tanh"(%a) {autopar.strategy = #autopar.strategy<[["w"]]>} : (tensor<8xf32>) -> tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @main(%a: tensor<8x8xf32>) -> tensor<8x8xf32> {
  // expected-error@+1 {{the strategy of 'stablehlo.tanh' is not possible: an axis splits one factor, once, and axis "x" is there twice}}
  %0 = "stablehlo.tanh"(%a) {autopar.strategy = #autopar.strategy<[["x"], ["x"]]>} : (tensor<8x8xf32>) -> tensor<8x8xf32>
  return %0 : tensor<8x8xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @main(%a: tensor<8x8xf32>) -> tensor<8x8xf32> {
  // expected-error@+1 {{the strategy of 'stablehlo.cholesky' is not possible: factor 1 cannot be split, leave its axes out}}
  %0 = "stablehlo.cholesky"(%a) <{lower = true}> {autopar.strategy = #autopar.strategy<[[], ["x"]]>} : (tensor<8x8xf32>) -> tensor<8x8xf32>
  return %0 : tensor<8x8xf32>
}

// -----

shard.grid @mesh(shape = 6) {axis_names = ["x"]}
func.func @main(%a: tensor<6xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x":(1)2}]>}) -> tensor<6xf32> {
  // expected-error@+1 {{the strategy of 'stablehlo.tanh' is sharded by the sub-axis "x":(1)3, which does not nest with "x":(1)2}}
  %0 = "stablehlo.tanh"(%a) {autopar.strategy = #autopar.strategy<[["x":(1)3]]>} : (tensor<6xf32>) -> tensor<6xf32>
  return %0 : tensor<6xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
// expected-error@+1 {{argument 0 of @main: sharding <@mesh, [{"x"}, {}]> has 2 dimensions, the tensor has 1}}
func.func @main(%a: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
// expected-error@+1 {{argument 0 of @main: sharding <@mesh, [{"x"}, {"x"}]> uses axis "x" twice}}
func.func @main(%a: tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"x"}]>}) -> tensor<8x8xf32> {
  return %a : tensor<8x8xf32>
}

// -----

// One axis cut by 2 and by 3, where both bind.
shard.grid @mesh(shape = 6) {axis_names = ["x"]}
// expected-error @+1 {{argument 1 of @main is sharded by the sub-axis "x":(1)3, which does not nest with "x":(1)2 of others}}
func.func @main(%a: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x":(1)2}]>},
                %b: tensor<9xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x":(1)3}]>}) {
  return
}

// -----

// Of ops that share an attribute each is looked at.
shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @rank(%a: tensor<4xf32>, %b: tensor<4x4xf32>) -> (tensor<4xf32>, tensor<4x4xf32>) {
  %0 = stablehlo.sine %a {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}]>]} : tensor<4xf32>
  // expected-error@+1 {{'stablehlo.sine' op: sharding <@mesh, [{"x"}]> has 1 dimensions, the tensor has 2}}
  %1 = stablehlo.sine %b {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}]>]} : tensor<4x4xf32>
  return %0, %1 : tensor<4xf32>, tensor<4x4xf32>
}

// -----

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @none(%a: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error@+1 {{'stablehlo.sine' op has 0 shardings for 1 results}}
  %0 = stablehlo.sine %a {autopar.sharding = []} : tensor<4xf32>
  return %0 : tensor<4xf32>
}
