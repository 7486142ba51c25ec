"""The networks of images and poses."""

from __future__ import annotations

from caffe_compat.schema.messages import NetParameter

from .builder import FROZEN, NetworkBuilder, Rates
from .options import ORIGINAL, NetworkOptions
from .parts import (
    JOINTS,
    evaluations_at_test,
    frames,
    frames_and_mpii,
    losses_3d,
    projector,
    slice_label,
    transformer,
    trunk,
)

__all__ = [
    "deploy",
    "finetune_whole",
    "mask3d",
    "pose_2d",
    "template_16_merge",
    "three_d_to_two_d",
    "two_d_to_three_d",
]


def two_d_to_three_d(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``2d_to_3d`` (bilstm): images to 3D poses, trained with the trunk fixed. Result: ``predict_inverted``."""
    net = NetworkBuilder(options)
    frames(net, "TRAIN", "data label_clip", options.train_frames())
    frames(net, "TEST", "data label_clip", options.test_frames())
    slice_label(net, "slice", "label_clip", "label2d label3d clip")
    trunk(net, FROZEN)
    transformer(net, (1, 2), None, (10, 20), reversed_pose="predict", pose="predict_inverted")
    net.euclidean("loss", "predict_inverted label3d")
    net.evaluation("evaluation", "predict_inverted label3d")
    return net.message


def pose_2d(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``2d_to_3d`` with 2D poses in place of 3D ones: 32 values, to ``norm_csv`` at TEST. Result: ``2dpredict``.

    The authors' 2D network ("our2d") comes with its own definition; this one is ours, with ``fc-final_2d`` as its last
    layer so that weights of a 3D network are never taken for it.
    """
    net = NetworkBuilder(options)
    frames(net, "TRAIN", "data label_clip", options.train_frames())
    frames(net, "TEST", "data label_clip", options.test_frames())
    slice_label(net, "slice", "label_clip", "label2d label3d clip")
    net.add("Silence", "silence", "label3d")
    trunk(net, FROZEN)
    transformer(net, (1, 2), None, (10, 20), pose="2dpredict", final_name="fc-final_2d", values=2 * JOINTS)
    net.euclidean("loss", "2dpredict label2d")
    net.add("SavePath", "Save1", "2dpredict", phase="TEST", save_path_param={"save_path": options.norm_csv})
    return net.message


def _whole(options: NetworkOptions) -> NetworkBuilder:
    """The network of ``3d_to_2d`` and ``finetune_whole``."""
    net = NetworkBuilder(options)
    frames_and_mpii(net, "demo", options.test_frames())
    trunk(net, (1, 1))
    transformer(net, (1, 2), None, (2, 2))
    net.linear("change_tmp", "3dpredict", options.projector, (1, 2))
    projector(net, (2, 2), (1, 2), (5, 5))
    net.euclidean("2dprojectloss_tmp", "project_2d label2d")
    losses_3d(net, options.unnorm_csv)
    evaluations_at_test(net)
    return net


def three_d_to_two_d(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``3d_to_2d`` (addsrr): adds the correction module and the projector; no gradient passes below ``3dpredict``."""
    net = _whole(options)
    net.stop_gradient("inverted2")
    return net.message


def finetune_whole(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``finetune_whole``: the network of ``3d_to_2d``, trained as a whole."""
    return _whole(options).message


def mask3d(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``mask3d``, TRAIN and TEST: random joints of ``3dpredict`` are masked before the correction at TRAIN.

    No gradient reaches the trunk.
    """
    net = NetworkBuilder(options)
    frames_and_mpii(net, "demo2", options.test_frames(4))
    trunk(net, (1, 1))
    transformer(net, (1, 1), (1, 1), (1, 1))
    net.stop_gradient("special_conv_1")
    net.add(
        "Mask", "mask3d", "3dpredict", "mask3d", phase="TRAIN", mask_param={"dim": 3, "prob": options.mask_probability}
    )
    net.add(
        "Eltwise",
        "pred3d_mask",
        "mask3d 3dpredict",
        "3dpredict_mask",
        phase="TRAIN",
        eltwise_param={"operation": "PROD"},
    )
    net.linear("change_tmp", "3dpredict_mask", options.projector, (1, 1), phase="TRAIN")
    net.linear("change_tmp", "3dpredict", options.projector, (1, 2), phase="TEST")
    projector(net, (2, 1), (1, 1), (2, 1))
    net.euclidean("2dprojectloss", "project_2d label2d", "TRAIN")
    net.bones("2Dboneloss", "project_2d label2d", 2)
    losses_3d(net, None)
    evaluations_at_test(net)
    net.euclidean("loss2d", "project_2d label2d", "TEST")
    return net.message


def deploy(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``tools_deploy``: the released model on inputs ``data`` (frames, 3, size, size) and ``clip`` (frames, 1).

    Results: ``3dpredict``, ``change`` (the corrected pose) and ``project_2d``.
    """
    net = NetworkBuilder(options)
    frames, size = options.test_frames(4), options.image_size
    for name, shape in (("data", [frames, 3, size, size]), ("clip", [frames, 1])):
        net.add("Input", name, "", name, input_param={"shape": [{"dim": shape}]})
    trunk(net, (1, 1))
    transformer(net, (1, 2), None, (2, 2))
    net.linear("change_tmp", "3dpredict", options.projector, (1, 2))
    projector(net, (2, 2), (1, 2), (5, 5))
    return net.message


def template_16_merge(options: NetworkOptions = ORIGINAL) -> NetParameter:
    """``template_16_merge``: the network that the original's test script runs; it writes all three CSV files.

    Its projector is another one than that of the training networks (no ReLU on ``project_3``, one after the sum), and
    ``project_media``, ``project_4``, ``project_5`` and ``project_2d_2`` are layers that no released model has: trust
    ``3dpredict`` and ``change``, and project with :func:`deploy`.
    """
    net = NetworkBuilder(options)
    rates: Rates = (1, 2)
    frames(net, "TEST", "data label_clip", options.test_frames())
    slice_label(net, "slice", "label_clip", "label2d label3d clip")
    trunk(net, FROZEN)
    transformer(net, FROZEN, FROZEN, FROZEN)
    net.evaluation("evalution", "3dpredict label3d", options.unnorm_csv)
    net.add("SavePath", "Save1", "3dpredict", save_path_param={"save_path": options.norm_csv})
    net.linear_relu("change_tmp", "3dpredict", rates)
    net.linear("change", "change_tmp", 3 * JOINTS, rates)
    net.linear_relu("project_1", "change", rates)
    net.linear_relu("project_2", "project_1", rates)
    net.linear("project_3", "project_2", options.projector, rates)
    net.sum("eltwise1", "project_1 project_3", "residual1")
    net.relu("relu_residual1", "residual1")
    net.linear("project_2d", "residual1", 2 * JOINTS, rates)
    net.euclidean("2dprojectloss_tmp", "project_2d label2d")
    net.linear_relu("project_media", "project_2d", rates)
    net.sum("eltwise2", "residual1 project_media", "residual2")
    net.linear_relu("project_4", "residual2", rates)
    net.linear("project_5", "project_4", options.projector, rates)
    net.sum("eltwise3", "project_1 project_5", "residual3")
    net.relu("relu_residual3", "residual3")
    net.linear("project_2d_2", "residual3", 2 * JOINTS, rates)
    net.evaluation("eval2", "change label3d", options.change_csv)
    net.euclidean("2Dloss", "label2d project_2d_2")
    return net.message
