#!/usr/bin/env sh
# Upgrade the old definition, train, score.
set -e
cd $(dirname $0)/../..

./build/tools/upgrade_net_proto_text examples/shapes/old_deploy.prototxt examples/shapes/deploy.prototxt
GLOG_logtostderr=1 ./build/tools/caffe train --solver=examples/shapes/solver.prototxt 2>&1 | tee examples/shapes/train.log
./build/tools/caffe test -model examples/shapes/train_val.prototxt \
  -weights examples/shapes/shapes_iter_30.caffemodel -iterations 2 2>&1 | grep "accuracy ="
