"""Our numbers against stored outputs of real Caffe."""
