"""Layer types of BVLC Caffe."""
