#!/usr/bin/env sh
# Make lmdb data bases of the shapes, for training and for testing.
set -e

EXAMPLE=examples/shapes
DATA=data/shapes
TOOLS=build/tools

# Set RESIZE=true to resize the pictures to 16x16.
RESIZE=true
if $RESIZE; then
  RESIZE_HEIGHT=16
  RESIZE_WIDTH=16
else
  RESIZE_HEIGHT=0
  RESIZE_WIDTH=0
fi

for set in train val; do
  echo "Creating $set lmdb..."
  rm -rf $EXAMPLE/shapes_${set}_lmdb
  GLOG_logtostderr=1 $TOOLS/convert_imageset \
    --resize_height=$RESIZE_HEIGHT \
    --resize_width=$RESIZE_WIDTH \
    --shuffle \
    $DATA/ \
    $DATA/$set.txt \
    $EXAMPLE/shapes_${set}_lmdb
done

$TOOLS/compute_image_mean -backend=lmdb $EXAMPLE/shapes_train_lmdb $EXAMPLE/mean.binaryproto
echo "Done."
