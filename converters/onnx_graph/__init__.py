"""A net as an ONNX graph: one file for what a graph is made of, one for each family of layers, one for its file."""
