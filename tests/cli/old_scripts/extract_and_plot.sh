#!/usr/bin/env sh
# Features of the validation set, the classes of one picture, tables and a plot of the training.
set -e
MODEL=examples/shapes/shapes_iter_30.caffemodel

rm -rf examples/shapes/features
./build/tools/extract_features.bin $MODEL examples/shapes/train_val.prototxt \
  fc1,fc2 examples/shapes/features,examples/shapes/scores 2 leveldb CPU
./build/examples/cpp_classification/classification.bin examples/shapes/deploy.prototxt $MODEL \
  examples/shapes/mean.binaryproto data/shapes/names.txt data/shapes/0.png > examples/shapes/classes.txt
python tools/extra/parse_log.py --verbose examples/shapes/train.log examples/shapes
python tools/extra/plot_training_log.py 6 examples/shapes/loss.png examples/shapes/train.log
