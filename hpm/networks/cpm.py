"""The networks that pre-train the trunk on 2D poses (convolutional pose machines)."""

from __future__ import annotations

from caffe_compat.errors import UsageError
from caffe_compat.schema.messages import NetParameter

from .builder import TRANSFORM, XAVIER, NetworkBuilder
from .options import ORIGINAL, NetworkOptions
from .parts import images, trunk

__all__ = ["pose_train_test_from_release", "train_test_cpm"]

# Coordinates: 17 joints in 2D, and two values that are not used.
_LABEL_VALUES, _COORDINATES = 36, 34
# Heat maps: 14 parts and the background.
_MAPS = 15


def train_test_cpm(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``train_test_cpm``: pre-trains the trunk by regressing 34 values (17 joints, 2D) from single images.

    Lines of its lists hold 36 values. The original gives ``SavePath`` the two that are left over as a second bottom,
    which Caffe refuses (the layer takes exactly one), so that its TEST phase cannot be built; here it gets only the
    prediction.
    """
    net = NetworkBuilder(options)
    for phase, source, batch in (
        ("TRAIN", options.train_list, options.train_frames(1)),
        ("TEST", options.test_list, options.test_frames(1)),
    ):
        fields = images(options, source, options.h36m_root, batch, _LABEL_VALUES)
        fields |= {"shuffle": options.shuffle, "is_shuffle_batch": False}
        net.add(
            "ImageData", "demo", "", "data label_clip", phase=phase, transform_param=TRANSFORM, image_data_param=fields
        )
    net.slice("slice", "label_clip", "label clip", 1, _COORDINATES)
    trunk(net, (1, 2))
    net.linear("fc-final", "conv4_7_CPM", _COORDINATES, (10, 20))
    net.euclidean("loss", "fc-final label")
    net.add("SavePath", "Save", "fc-final", phase="TEST", save_path_param={"save_path": options.norm_csv})
    return net.message


def pose_train_test_from_release(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``pose_train_test_from_release``: pre-trains the trunk by heat maps of 14 parts and background, in two stages.

    In place of the original's CPMData layer stands an ``Input`` layer of the same name and tops:

    - ``data`` (batch, 4, size, size): the image, (v - 128) / 256, and a map of the person's centre;
    - ``label`` (batch, 30, size / 8, size / 8): 15 maps of the person in the centre, then 15 of everybody in the image,
      each 14 parts and the background, at an eighth of the size.

    Raises:
        UsageError: an image size that 8 does not divide.
    """
    size, channels = options.image_size, options.channels
    if size % 8:
        raise UsageError(f"image_size is {size}; a multiple of 8 was expected: heat maps are an eighth of the image")
    net, batch, rates = NetworkBuilder(options), options.train_frames(4), (1.0, 2.0)
    shapes = [[batch, 4, size, size], [batch, 2 * _MAPS, size // 8, size // 8]]
    net.add("Input", "data", "", "data label", input_param={"shape": [{"dim": shape} for shape in shapes]})
    net.slice("image", "data", "image center_map", 1, 3)
    net.slice("label_lower", "label", "label_lower label_1st_lower", 1, _MAPS)
    pooling = {"pool": "AVE", "kernel_size": 9, "stride": 8}
    net.add("Pooling", "pool_center_lower", "center_map", "pool_center_lower", pooling_param=pooling)
    trunk(net, rates, "image", XAVIER)
    net.conv("conv5_1_CPM", "conv4_7_CPM", channels[3], rates, XAVIER, kernel=1, pad=0)
    net.relu("relu5_1_CPM", "conv5_1_CPM")
    net.conv("conv5_2_CPM", "conv5_1_CPM", _MAPS, rates, XAVIER, kernel=1, pad=0)
    bottom = "concat_stage2"
    net.add("Concat", bottom, "conv5_2_CPM conv4_7_CPM pool_center_lower", bottom, concat_param={"axis": 1})
    for i in range(1, 7):
        name = f"Mconv{i}_stage2"
        kernel, pad = (7, 3) if i < 6 else (1, 0)
        net.conv(name, bottom, channels[5], rates, XAVIER, kernel=kernel, pad=pad)
        net.relu(f"Mrelu{i}_stage2", name)
        bottom = name
    net.conv("Mconv7_stage2", bottom, _MAPS, rates, XAVIER, kernel=1, pad=0)
    net.euclidean("loss_stage1", "conv5_2_CPM label_1st_lower")
    net.euclidean("loss_stage2", "Mconv7_stage2 label_lower")
    return net.message
