// RUN: autopar-opt %s --import-sdy --split-input-file --verify-diagnostics

// What jaxlib's verifier lets pass and what it does not: one error at the place.

sdy.mesh @mesh = <["x"=2, "y"=4]>
// expected-error@+1 {{mesh @b has 4 devices and mesh @mesh 8: one program runs on one set of devices}}
sdy.mesh @b = <["x"=4]>
func.func @main(%a: tensor<8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}]>}, %b: tensor<8xf32> {sdy.sharding = #sdy.sharding<@b, [{"x"}]>}) {
  return
}

// -----

sdy.mesh @mesh = <["x"=2, "y"=4]>
// expected-error@+1 {{meshes @b and @mesh order their devices differently}}
sdy.mesh @b = <["u"=8], device_ids=[7, 6, 5, 4, 3, 2, 1, 0]>
func.func @main(%a: tensor<8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"x"}]>}, %b: tensor<8xf32> {sdy.sharding = #sdy.sharding<@b, [{"u"}]>}) {
  return
}

// -----

// expected-error@+1 {{the meshes @p 2x3, @q 3x2 have no common refinement}}
sdy.mesh @p = <["x"=2, "y"=3]>
sdy.mesh @q = <["x"=3, "y"=2]>
func.func @main(%a: tensor<8xf32> {sdy.sharding = #sdy.sharding<@p, [{"x"}]>}, %b: tensor<8xf32> {sdy.sharding = #sdy.sharding<@q, [{"x"}]>}) {
  return
}

// -----

sdy.mesh @mesh = <["x"=2, "y"=4]>
// expected-error@+1 {{unknown axis name: "z"}}
func.func @main(%a: tensor<8xf32> {sdy.sharding = #sdy.sharding<@mesh, [{"z"}]>}) {
  return
}

// -----

// expected-error@+1 {{the module has the grid @mesh, and sdy shardings on the mesh (x=2, y=4): write both on one mesh}}
shard.grid @mesh(shape = 8) {axis_names = ["z"]}
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %0 = sdy.manual_computation(%a) in_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] out_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] manual_axes={} (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %0 : tensor<8x16xf32>
}
