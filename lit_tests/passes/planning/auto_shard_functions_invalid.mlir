// RUN: autopar-opt %s --auto-shard --split-input-file --verify-diagnostics

shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @first(%x: tensor<8xf32>) -> tensor<8xf32> {
  return %x : tensor<8xf32>
}
// expected-error@+1 {{expected a function @main, or one public function; found 2: call the program @main, or make the others private}}
func.func @second(%x: tensor<8xf32>) -> tensor<8xf32> {
  return %x : tensor<8xf32>
}

// -----

// expected-error@+1 {{expected a function @main, or one public function; the module has none}}
module {
  shard.grid @mesh(shape = 8) {axis_names = ["x"]}
}
