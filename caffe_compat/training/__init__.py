"""Training and testing as Caffe does them: data layers, solvers, snapshots, ranks."""
