"""Our numbers against those of real Caffe: blob by blob, in execution order, in IEEE float32.

Two kinds of stored outputs are read. A *case* is a small network with everything needed to run it: inputs, weights,
outputs and gradients. A *reference* is what a whole model gave: inputs and blobs, large ones as fingerprints (mean,
standard deviation, least and greatest value, and the values at some positions).
"""
