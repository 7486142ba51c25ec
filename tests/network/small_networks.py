"""Networks in the manner of well-known ones, narrow: the layers, names and wiring of the originals, few channels."""

from __future__ import annotations

import numpy as np

from caffe_compat import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net
from tests.networks import input_layer, ip, layer

__all__ = ["ALEXNET", "INCEPTION", "RECURRENT", "RESNET", "SSD", "drawn"]


def drawn(text: str, dialect: str | None = None) -> CaffeNet:
    """A net whose weights are drawn so that activations keep their size; none of its statistics is negative."""
    parsed = parse_message(text, dialect=dialect)
    net = CaffeNet(upgrade_net(parsed.message, parsed.schema).message, dialect=parsed.schema.name).materialize(0)
    rng = np.random.RandomState(7)
    for name, tensor in net.state_dict().items():
        if tensor.dim() > 1:
            values = rng.standard_normal(tuple(tensor.shape)) * np.sqrt(2 / tensor[0].numel())
        else:
            values = rng.uniform(0.5, 1.5, tuple(tensor.shape)) * (1 if "bias" not in name else 0.1)
        tensor.numpy()[...] = values
    return net


def _conv(name: str, bottom: str, outputs: int, more: str, top: str = "") -> str:
    return layer(name, "Convolution", bottom, top or name, f"convolution_param {{ num_output: {outputs} {more} }}")


def _relu(name: str, blob: str) -> str:
    return layer(name, "ReLU", blob, blob)


def _pool(name: str, bottom: str, top: str, more: str) -> str:
    return layer(name, "Pooling", bottom, top, f"pooling_param {{ {more} }}")


# Krizhevsky's network as BVLC trained it: local response normalisation, grouped convolutions, dropout.
ALEXNET = 'name: "AlexNet"\n' + "".join(
    (
        input_layer("data", 2, 3, 67, 67),
        _conv("conv1", "data", 8, "kernel_size: 11 stride: 4"),
        _relu("relu1", "conv1"),
        layer("norm1", "LRN", "conv1", "norm1", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"),
        _pool("pool1", "norm1", "pool1", "pool: MAX kernel_size: 3 stride: 2"),
        _conv("conv2", "pool1", 12, "pad: 2 kernel_size: 5 group: 2"),
        _relu("relu2", "conv2"),
        layer("norm2", "LRN", "conv2", "norm2", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"),
        _pool("pool2", "norm2", "pool2", "pool: MAX kernel_size: 3 stride: 2"),
        ip("fc6", "pool2", "fc6", 16),
        _relu("relu6", "fc6"),
        layer("drop6", "Dropout", "fc6", "fc6", "dropout_param { dropout_ratio: 0.5 }"),
        ip("fc8", "fc6", "fc8", 10),
        layer("prob", "Softmax", "fc8", "prob"),
    )
)


def _normalized(name: str, bottom: str, outputs: int, more: str) -> str:
    scale = name.replace("res", "scale")
    return (
        _conv(name, bottom, outputs, f"bias_term: false {more}")
        + layer(name.replace("res", "bn"), "BatchNorm", name, name, "batch_norm_param { use_global_stats: true }")
        + layer(scale, "Scale", name, name, "scale_param { bias_term: true }")
    )


def _residual(name: str, bottom: str, outputs: int) -> str:
    return (
        _normalized(f"{name}_branch1", bottom, outputs, "kernel_size: 1")
        + _normalized(f"{name}_branch2a", bottom, outputs, "kernel_size: 3 pad: 1")
        + _relu(f"{name}_branch2a_relu", f"{name}_branch2a")
        + _normalized(f"{name}_branch2b", f"{name}_branch2a", outputs, "kernel_size: 3 pad: 1")
        + layer(name, "Eltwise", f"{name}_branch1 {name}_branch2b", name)
        + _relu(f"{name}_relu", name)
    )


# He's residual networks: BatchNorm, Scale, and sums.
RESNET = 'name: "ResNet-8"\n' + "".join(
    (
        input_layer("data", 2, 3, 32, 32),
        _normalized("res1", "data", 8, "kernel_size: 7 pad: 3 stride: 2"),
        _relu("conv1_relu", "res1"),
        _pool("pool1", "res1", "pool1", "kernel_size: 3 stride: 2"),
        _residual("res2a", "pool1", 8),
        _residual("res2b", "res2a", 12),
        _pool("pool5", "res2b", "pool5", "pool: AVE global_pooling: true"),
        ip("fc1000", "pool5", "fc1000", 10),
        layer("prob", "Softmax", "fc1000", "prob"),
    )
)


def _heads(source: str, sizes: str, classes: int) -> str:
    boxes = 4  # one of the size, one of the mean with the larger, two of the ratio
    found = ""
    for kind, outputs in (("loc", 4 * boxes), ("conf", classes * boxes)):
        name = f"{source}_mbox_{kind}"
        found += _conv(name, source, outputs, "kernel_size: 3 pad: 1")
        found += layer(f"{name}_perm", "Permute", name, f"{name}_perm", PERMUTE)
        found += layer(f"{name}_flat", "Flatten", f"{name}_perm", f"{name}_flat")
    variances = "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2"
    prior = f"prior_box_param {{ {sizes} aspect_ratio: 2 flip: true {variances} }}"
    return found + layer(f"{source}_mbox_priorbox", "PriorBox", f"{source} data", f"{source}_mbox_priorbox", prior)


PERMUTE = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
_JOINED = "".join(
    layer(
        f"mbox_{kind}",
        "Concat",
        f"conv4_3_norm_mbox_{kind} fc7_mbox_{kind}",
        f"mbox_{kind}",
        f"concat_param {{ axis: {axis} }}",
    )
    for kind, axis in (("loc_flat", 1), ("conf_flat", 1), ("priorbox", 2))
)
# Liu's single-shot detector: prior boxes on two maps, scores, suppression.
SSD = 'name: "VGG_SSD"\n' + "".join(
    (
        input_layer("data", 2, 3, 48, 48),
        _conv("conv4_3", "data", 8, "kernel_size: 3 pad: 1 stride: 4"),
        _relu("relu4_3", "conv4_3"),
        layer(
            "conv4_3_norm",
            "Normalize",
            "conv4_3",
            "conv4_3_norm",
            "norm_param { across_spatial: false channel_shared: false }",
        ),
        _pool("pool4", "conv4_3", "pool4", "kernel_size: 2 stride: 2"),
        _conv("fc7", "pool4", 12, "kernel_size: 3 pad: 2 dilation: 2"),
        _relu("relu7", "fc7"),
        _heads("conv4_3_norm", "min_size: 12 max_size: 20", 4),
        _heads("fc7", "min_size: 24 max_size: 40", 4),
        _JOINED,
        layer(
            "mbox_conf_reshape",
            "Reshape",
            "mbox_conf_flat",
            "mbox_conf_reshape",
            "reshape_param { shape { dim: 0 dim: -1 dim: 4 } }",
        ),
        layer("mbox_conf_softmax", "Softmax", "mbox_conf_reshape", "mbox_conf_softmax", "softmax_param { axis: 2 }"),
        layer("mbox_conf_flatten", "Flatten", "mbox_conf_softmax", "mbox_conf_flatten", "flatten_param { axis: 1 }"),
        layer(
            "detection_out",
            "DetectionOutput",
            "mbox_loc_flat mbox_conf_flatten mbox_priorbox",
            "detection_out",
            "detection_output_param { num_classes: 4 background_label_id: 0 "
            "nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE keep_top_k: 200 "
            "confidence_threshold: 0.01 }",
        ),
    )
)

# A cell of GoogLeNet: names with slashes, a concatenation.
INCEPTION = 'name: "GoogleNet"\n' + "".join(
    (
        input_layer("data", 2, 3, 12, 12),
        _conv("inception_3a/1x1", "data", 4, "kernel_size: 1"),
        _relu("inception_3a/relu_1x1", "inception_3a/1x1"),
        _conv("inception_3a/3x3", "data", 6, "kernel_size: 3 pad: 1"),
        _pool("inception_3a/pool", "data", "inception_3a/pool", "kernel_size: 3 stride: 1 pad: 1"),
        layer(
            "inception_3a/output",
            "Concat",
            "inception_3a/1x1 inception_3a/3x3 inception_3a/pool",
            "inception_3a/output",
        ),
        _pool("pool5/7x7_s1", "inception_3a/output", "pool5/7x7_s1", "pool: AVE kernel_size: 5 stride: 3 pad: 1"),
    )
)

# An LSTM over time, whose state carries from call to call.
RECURRENT = 'name: "captions"\n' + "".join(
    (
        input_layer("words", 5, 2),
        input_layer("cont", 5, 2),
        layer("embed", "Embed", "words", "embed", "embed_param { num_output: 6 input_dim: 9 bias_term: false }"),
        layer("lstm", "LSTM", "embed cont", "lstm", "recurrent_param { num_output: 4 }"),
        layer("predict", "InnerProduct", "lstm", "predict", "inner_product_param { num_output: 7 axis: 2 }"),
    )
)
