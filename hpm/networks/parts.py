"""What several pose networks share: data, trunk, 2D-to-3D transformer, projector, losses."""

from __future__ import annotations

from collections.abc import Mapping

from .builder import GAUSSIAN, TRANSFORM, NetworkBuilder, Rates
from .options import NetworkOptions

__all__ = [
    "JOINTS",
    "evaluations_at_test",
    "frames",
    "frames_and_mpii",
    "images",
    "losses_3d",
    "projector",
    "slice_label",
    "transformer",
    "trunk",
]

JOINTS = 16
# A line of an H36M list: 2D, 3D and the clip value. A line of an MPII list: 2D and the clip value.
_H36M_VALUES = 5 * JOINTS + 1
_MPII_VALUES = 2 * JOINTS + 1


def images(options: NetworkOptions, source: str, root: str, batch: int, values: int) -> dict[str, object]:
    """Parameters of a layer that reads images and ``values`` labels each from a list."""
    size = options.image_size
    fields = {"source": source, "root_folder": root, "batch_size": batch, "label_dim": values}
    return fields | {"new_height": size, "new_width": size, "is_color": True}


def frames(net: NetworkBuilder, phase: str, tops: str, batch: int) -> None:
    """Windows of consecutive H36M frames: from random places at TRAIN, one after the other at TEST."""
    options, train = net.options, phase == "TRAIN"
    fields = images(options, options.train_list if train else options.test_list, options.h36m_root, batch, _H36M_VALUES)
    fields |= {"shuffle": False, "is_shuffle_batch": train and options.shuffle}
    net.add("ImageDataLstm", "demo", "", tops, phase=phase, transform_param=TRANSFORM, image_data_lstm_param=fields)


def slice_label(net: NetworkBuilder, name: str, bottom: str, tops: str, phase: str | None = None) -> None:
    """A label of H36M into its 2D pose, its 3D pose and its clip value."""
    net.slice(name, bottom, tops, 1, 2 * JOINTS, 5 * JOINTS, phase=phase)


def frames_and_mpii(net: NetworkBuilder, mpii_name: str, test_batch: int) -> None:
    """At TRAIN a window of H36M frames with 2D and 3D poses, then MPII images with 2D poses; at TEST H36M alone."""
    options = net.options
    frames(net, "TRAIN", "datah36m labelh36m", options.train_frames())
    mpii = images(options, options.mpii_list, options.mpii_root, options.mpii_batch, _MPII_VALUES)
    mpii["shuffle"] = options.shuffle
    if not options.shuffle:
        mpii["is_shuffle_batch"] = False  # true is what the fork does when nothing is said
    net.add(
        "ImageData",
        mpii_name,
        "",
        "datampii labelmpii",
        phase="TRAIN",
        transform_param=TRANSFORM,
        image_data_param=mpii,
    )
    frames(net, "TEST", "data label_clip", test_batch)
    net.slice("slice1", "labelmpii", "mpii_label2d mpii_clip", 1, 2 * JOINTS, phase="TRAIN")
    slice_label(net, "slice2", "labelh36m", "h36m_label2d label3d h36m_clip", "TRAIN")
    slice_label(net, "slice1", "label_clip", "label2d label3d clip", "TEST")
    for name, bottoms, top in (
        ("data", "datah36m datampii", "data"),
        ("concat_label2d", "h36m_label2d mpii_label2d", "label2d"),
        ("concat_clip", "h36m_clip mpii_clip", "clip"),
    ):
        net.add("Concat", name, bottoms, top, phase="TRAIN", concat_param={"axis": 0})


def trunk(net: NetworkBuilder, rates: Rates, bottom: str = "data", filler: Mapping[str, object] = GAUSSIAN) -> None:
    """Images to features at an eighth of the size: four blocks of 3x3 convolutions, pooled after each but the last."""
    channels = net.options.channels
    blocks = (
        [channels[0]] * 2,
        [channels[1]] * 2,
        [channels[2]] * 4,
        [channels[3]] * 2 + [channels[4]] * 4 + [channels[5]],
    )
    for block, widths in enumerate(blocks, 1):
        for i, width in enumerate(widths, 1):
            suffix = f"{block}_{i}_CPM" if block == 4 and i > 2 else f"{block}_{i}"
            net.conv(f"conv{suffix}", bottom, width, rates, filler)
            bottom = f"conv{suffix}"
            net.relu(f"relu{suffix}", bottom)
        if block < 4:
            pooled = f"pool{block}_stage1"
            net.add("Pooling", pooled, bottom, pooled, pooling_param={"pool": "MAX", "kernel_size": 2, "stride": 2})
            bottom = pooled


def transformer(
    net: NetworkBuilder,
    rates: Rates,
    lstm: Rates,
    final: Rates,
    *,
    reversed_pose: str = "predict_inverted",
    pose: str = "3dpredict",
    final_name: str = "fc-final_16",
    values: int = 3 * JOINTS,
) -> None:
    """Features to poses: convolutions, an LSTM over the window, and another from the window's end to its start."""
    hidden, width, bottom = net.options.hidden, net.options.channels[5], "conv4_7_CPM"
    for part, sizes in (("special", {}), ("fa", {"kernel": 5, "stride": 2})):
        for i in (1, 2):
            net.conv(f"{part}_conv_{i}", bottom, width, rates, GAUSSIAN, **sizes)
            bottom = f"{part}_conv_{i}"
            net.relu(f"relu_{part}_{i}", bottom)
    net.linear("fc", bottom, hidden, rates)
    net.reshape("reshape-data", "fc", "fc-reshape", -1, 1, hidden)
    net.lstm("lstm1", "fc-reshape", lstm)
    net.reshape("reshape-lstm1", "lstm1", "lstm1_reshape", -1, hidden)
    net.add("InvertedOrder", "inverted1", "lstm1_reshape", "lstm1_inverted")
    net.reshape("reshape-lstm1_", "lstm1_inverted", "lstm2_input", -1, 1, hidden)
    net.lstm("lstm2", "lstm2_input", lstm)
    net.linear(final_name, "lstm2", values, final, top="fc-final")
    net.reshape("reshape-fc", "fc-final", reversed_pose, -1, values)
    net.add("InvertedOrder", "inverted2", reversed_pose, pose)


def projector(net: NetworkBuilder, change: Rates, rates: Rates, final: Rates) -> None:
    """``change_tmp`` to the corrected 3D pose ``change``, and that to the 2D pose ``project_2d``."""
    net.relu("relu_change_tmp", "change_tmp")
    net.linear("change", "change_tmp", 3 * JOINTS, change)
    for name, bottom in (("project_1", "change"), ("project_2", "project_1"), ("project_3", "project_2")):
        net.linear_relu(name, bottom, rates)
    net.sum("eltwise1", "project_1 project_3", "residual1")
    net.linear("project_2d", "residual1", 2 * JOINTS, final)


def losses_3d(net: NetworkBuilder, csv: str | None) -> None:
    """Point and bone losses of the predicted and of the corrected pose, at TRAIN, on the H36M part of the batch."""
    window = net.options.train_frames()
    parts = (("slice_pred", "3dpredict", "evalution", csv, 1), ("slice_change", "change", "evalution2", None, 2))
    for name, blob, evaluation, file, i in parts:
        net.slice(name, blob, f"{blob}_h36m {blob}_mpii", 0, window, phase="TRAIN")
        bottoms = f"{blob}_h36m label3d"
        net.evaluation(evaluation, bottoms, file, "TRAIN")
        net.euclidean(f"3Dreconloss_h36m{i}", bottoms, "TRAIN")
        net.bones(f"3Dboneloss_h36m{i}", bottoms, 3)
    for name, blob in (("losstmp", "change_mpii"), ("losstmp2", "3dpredict_mpii")):
        net.euclidean(name, f"{blob} {blob}", "TRAIN")
        net.stop_gradient(name)


def evaluations_at_test(net: NetworkBuilder) -> None:
    """MPJPE of the predicted and of the corrected pose, each with its CSV."""
    net.evaluation("evalution", "3dpredict label3d", net.options.unnorm_csv, "TEST")
    net.evaluation("evalution2", "change label3d", net.options.change_csv, "TEST")
