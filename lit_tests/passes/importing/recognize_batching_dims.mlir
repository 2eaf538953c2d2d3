// RUN: autopar-opt %s --recognize-batching-dims --dce --split-input-file | filecheck %s

// Own rows: the first column counts along dimension 0 of the indices (made non-negative, as JAX does).
// CHECK-LABEL: @own_rows
// CHECK:       "stablehlo.gather"(%{{.*}}, %{{.*}}) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [1], operand_batching_dims = [0], start_indices_batching_dims = [0], start_index_map = [1], index_vector_dim = 1>
// CHECK-SAME:  tensor<8x1xi32>
func.func public @own_rows(%h: tensor<8x5x3xf32>, %i: tensor<8x1xi32>) -> tensor<8x3xf32> {
  %iota = stablehlo.iota dim = 0 : tensor<8xi32>
  %zero = stablehlo.constant dense<0> : tensor<8xi32>
  %size = stablehlo.constant dense<8> : tensor<8xi32>
  %negative = stablehlo.compare LT, %iota, %zero, SIGNED : (tensor<8xi32>, tensor<8xi32>) -> tensor<8xi1>
  %sum = stablehlo.add %iota, %size : tensor<8xi32>
  %row = stablehlo.select %negative, %sum, %iota : tensor<8xi1>, tensor<8xi32>
  %column = stablehlo.broadcast_in_dim %row, dims = [0] : (tensor<8xi32>) -> tensor<8x1xi32>
  %indices = stablehlo.concatenate %column, %i, dim = 1 : (tensor<8x1xi32>, tensor<8x1xi32>) -> tensor<8x2xi32>
  %r = "stablehlo.gather"(%h, %indices) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0, 1], start_index_map = [0, 1], index_vector_dim = 1>, slice_sizes = array<i64: 1, 1, 3>}> : (tensor<8x5x3xf32>, tensor<8x2xi32>) -> tensor<8x3xf32>
  return %r : tensor<8x3xf32>
}

// -----

// A scatter, whose other columns stay joined; they stand around the one that counts (a constant).
// CHECK-LABEL: @scatter
// CHECK:       %[[I:.*]] = stablehlo.concatenate %{{.*}}, %{{.*}}, dim = 1 : (tensor<4x1xi32>, tensor<4x1xi32>) -> tensor<4x2xi32>
// CHECK:       "stablehlo.scatter"(%{{.*}}, %[[I]], %{{.*}}) <{scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [0, 2], input_batching_dims = [1], scatter_indices_batching_dims = [0], scatter_dims_to_operand_dims = [2, 0], index_vector_dim = 1>
func.func public @scatter(%h: tensor<6x4x5xf32>, %i: tensor<4x1xi32>, %j: tensor<4x1xi32>, %u: tensor<4xf32>) -> tensor<6x4x5xf32> {
  %row = stablehlo.constant dense<[[0], [1], [2], [3]]> : tensor<4x1xi32>
  %indices = stablehlo.concatenate %i, %row, %j, dim = 1 : (tensor<4x1xi32>, tensor<4x1xi32>, tensor<4x1xi32>) -> tensor<4x3xi32>
  %r = "stablehlo.scatter"(%h, %indices, %u) <{indices_are_sorted = true, scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [0, 1, 2], scatter_dims_to_operand_dims = [2, 1, 0], index_vector_dim = 1>}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %s = stablehlo.add %a, %b : tensor<f32>
    stablehlo.return %s : tensor<f32>
  }) : (tensor<6x4x5xf32>, tensor<4x3xi32>, tensor<4xf32>) -> tensor<6x4x5xf32>
  return %r : tensor<6x4x5xf32>
}

// -----

// Not along as many rows as there are; positions that wrap around; windows of two rows.
// CHECK-LABEL: @others
// CHECK-NOT:   batching_dims
func.func public @others(%h: tensor<9x5xf32>, %g: tensor<300x5xf32>, %i: tensor<8x1xi32>, %j: tensor<300x1xi8>, %k: tensor<9x1xi32>) -> (tensor<8xf32>, tensor<300xf32>, tensor<9x2xf32>) {
  %row = stablehlo.iota dim = 0 : tensor<8x1xi32>
  %indices = stablehlo.concatenate %row, %i, dim = 1 : (tensor<8x1xi32>, tensor<8x1xi32>) -> tensor<8x2xi32>
  %r = "stablehlo.gather"(%h, %indices) <{dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0, 1], start_index_map = [0, 1], index_vector_dim = 1>, slice_sizes = array<i64: 1, 1>}> : (tensor<9x5xf32>, tensor<8x2xi32>) -> tensor<8xf32>
  %wide = stablehlo.iota dim = 0 : tensor<300x1xi32>
  %narrow = stablehlo.convert %wide : (tensor<300x1xi32>) -> tensor<300x1xi8>
  %wrapped = stablehlo.concatenate %narrow, %j, dim = 1 : (tensor<300x1xi8>, tensor<300x1xi8>) -> tensor<300x2xi8>
  %s = "stablehlo.gather"(%g, %wrapped) <{dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0, 1], start_index_map = [0, 1], index_vector_dim = 1>, slice_sizes = array<i64: 1, 1>}> : (tensor<300x5xf32>, tensor<300x2xi8>) -> tensor<300xf32>
  %rows = stablehlo.iota dim = 0 : tensor<9x1xi32>
  %both = stablehlo.concatenate %rows, %k, dim = 1 : (tensor<9x1xi32>, tensor<9x1xi32>) -> tensor<9x2xi32>
  %t = "stablehlo.gather"(%h, %both) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [1], start_index_map = [0, 1], index_vector_dim = 1>, slice_sizes = array<i64: 2, 1>}> : (tensor<9x5xf32>, tensor<9x2xi32>) -> tensor<9x2xf32>
  return %r, %s, %t : tensor<8xf32>, tensor<300xf32>, tensor<9x2xf32>
}
