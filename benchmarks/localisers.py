"""Networks that say where something is, or what is written, as prototxt text: of the papers named."""

from __future__ import annotations

from classifiers import vgg16_convolutions
from definition import Definition

__all__ = ["crnn", "fcn8", "openpose", "ssd300"]


def fcn8(batch: int, size: int = 500) -> str:
    """FCN-8s on VGG-16: Long et al., CVPR 2015. A border of 100 keeps small images from vanishing; 21 classes."""
    net = Definition(data=(batch, 3, size, size))
    x = net.pool("pool5", vgg16_convolutions(net, first_pad=100), 2, 2)
    x = net.convolution("fc7", net.convolution("fc6", x, 4096, 7), 4096, 1)
    x = net.convolution("score", x, 21, 1, relu=False)
    for below, offset in (("pool4", 5), ("pool3", 9)):
        x = _larger(net, f"up_{below}", x, 4, 2)
        scored = net.convolution(f"score_{below}", below, 21, 1, relu=False)
        scored = net.layer("Crop", f"crop_{below}", f"{scored} {x}", f"crop_param {{ axis: 2 offset: {offset} }}")
        x = net.sum(f"sum_{below}", x, scored)
    net.layer("Crop", "scored", f"{_larger(net, 'up', x, 16, 8)} data", "crop_param { axis: 2 offset: 31 }")
    return net.text


def _larger(net: Definition, name: str, x: str, kernel: int, stride: int) -> str:
    sizes = f"num_output: 21 kernel_size: {kernel} stride: {stride} bias_term: false"
    return net.layer("Deconvolution", name, x, f"convolution_param {{ {sizes} }}")


def openpose(batch: int, size: int = 184) -> str:
    """Cao et al., CVPR 2017: six stages with a branch for 38 maps of limbs and one for 19 of joints.

    Published for pictures of 368 x 368.
    """
    net, x = Definition(data=(batch, 3, size, size)), "data"
    for block, (outputs, count) in enumerate(((64, 2), (128, 2), (256, 4), (512, 2)), 1):
        for i in range(1, count + 1):
            x = net.convolution(f"conv{block}_{i}", x, outputs, 3, pad=1)
        if block < 4:
            x = net.pool(f"pool{block}", x, 2, 2)
    features = net.convolution("conv4_4", net.convolution("conv4_3", x, 256, 3, pad=1), 128, 3, pad=1)
    maps: list[str] = []
    for stage in range(1, 7):
        seen = features if stage == 1 else net.concat(f"stage{stage}", [*maps, features])
        maps = []
        for branch, outputs in (("limbs", 38), ("joints", 19)):
            name, x = f"{branch}{stage}", seen
            # After the first stage receptive fields grow: five convolutions of 7x7 for three of 3x3.
            kernel, count, width = (3, 3, 512) if stage == 1 else (7, 5, 128)
            for i in range(1, count + 1):
                x = net.convolution(f"{name}_{i}", x, 128, kernel, pad=kernel // 2)
            x = net.convolution(f"{name}_wide", x, width, 1)
            maps.append(net.convolution(name, x, outputs, 1, relu=False))
    return net.text


# By map of SSD-300: aspect ratios beside 1, the side of its smallest boxes in pixels, and how far apart they lie.
_MAPS = (
    ("norm", (2,), 30, 8),
    ("fc7", (2, 3), 60, 16),
    ("conv6_2", (2, 3), 111, 32),
    ("conv7_2", (2, 3), 162, 64),
    ("conv8_2", (2,), 213, 100),
    ("conv9_2", (2,), 264, 300),
)


def ssd300(batch: int, size: int = 300, classes: int = 21) -> str:
    """Liu et al., ECCV 2016, on VGG-16: six maps with 8,732 boxes, for the classes of PASCAL VOC."""
    net = Definition(data=(batch, 3, size, size))
    x = net.pool("pool5", vgg16_convolutions(net), 3, pad=1)
    x = net.convolution("fc6", x, 1024, 3, pad=6, dilation=6)
    x = net.convolution("fc7", x, 1024, 1)
    for i, (inner, outer, stride, pad) in enumerate(
        ((256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)), 6
    ):
        x = net.convolution(f"conv{i}_1", x, inner, 1)
        x = net.convolution(f"conv{i}_2", x, outer, 3, stride=stride, pad=pad)
    scale = 'scale_filler { type: "constant" value: 20 }'
    net.layer("Normalize", "norm", "conv4_3", f"norm_param {{ across_spatial: false channel_shared: false {scale} }}")
    parts: dict[str, list[str]] = {"boxes": [], "scores": [], "priors": []}
    for (name, ratios, least, step), most in zip(_MAPS, [m[2] for m in _MAPS[1:]] + [315], strict=True):
        count = 2 + 2 * len(ratios)
        for kind, width in (("boxes", 4), ("scores", classes)):
            found = net.convolution(f"{name}_{kind}", name, count * width, 3, pad=1, relu=False)
            order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
            found = net.layer("Permute", f"{found}_last", found, order)
            parts[kind].append(net.layer("Flatten", f"{name}_{kind}_flat", found))
        told = " ".join(f"aspect_ratio: {ratio}" for ratio in ratios)
        told += f" min_size: {least} max_size: {most} step: {step} flip: true clip: false offset: 0.5"
        told += " variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2"
        parts["priors"].append(net.layer("PriorBox", f"{name}_priors", f"{name} data", f"prior_box_param {{ {told} }}"))
    boxes, scores, priors = (net.concat(k, blobs, 2 if k == "priors" else 1) for k, blobs in parts.items())
    by_box = net.layer("Reshape", "by_box", scores, f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {classes} }} }}")
    flat = net.layer("Flatten", "flat", net.softmax(by_box, 2))
    told = f"num_classes: {classes} share_location: true background_label_id: 0 code_type: CENTER_SIZE"
    told += " nms_param { nms_threshold: 0.45 top_k: 400 } keep_top_k: 200 confidence_threshold: 0.01"
    net.layer("DetectionOutput", "found", f"{boxes} {flat} {priors}", f"detection_output_param {{ {told} }}")
    return net.text


def crnn(batch: int, size: int = 100) -> str:
    """Shi et al., TPAMI 2017: lines of 32 x ``size`` pixels, two LSTMs of 256 in both directions, 37 classes."""
    steps = size // 4 - 1
    net = Definition(data=(batch, 1, 32, size), cont=(steps, batch))
    x = "data"
    # Output channels, batch normalisation, and the (height, width) by which the map shrinks afterwards.
    for i, (outputs, normalised, shrunk) in enumerate(
        (
            (64, False, (2, 2)),
            (128, False, (2, 2)),
            (256, True, None),
            (256, False, (2, 1)),
            (512, True, None),
            (512, False, (2, 1)),
        ),
        1,
    ):
        x = net.convolution(f"conv{i}", x, outputs, 3, pad=1, relu=False)
        x = net.relu(net.normalised(x)) if normalised else net.relu(x)
        x = net.pool(f"pool{i}", x, shrunk, shrunk) if shrunk else x
    x = net.relu(net.normalised(net.convolution("conv7", x, 512, 2, relu=False)))
    x = net.layer("Permute", "steps", x, "permute_param { order: 3 order: 0 order: 1 order: 2 }")
    x = net.layer("Flatten", "rows", x, "flatten_param { axis: 2 }")
    for name, outputs in (("lstm1", 256), ("lstm2", 37)):
        there = net.layer("LSTM", f"{name}_there", f"{x} cont", "recurrent_param { num_output: 256 }")
        back = net.layer("Reverse", f"{name}_turned", x, "reverse_param { axis: 0 }")
        back = net.layer("LSTM", f"{name}_back", f"{back} cont", "recurrent_param { num_output: 256 }")
        back = net.layer("Reverse", f"{name}_home", back, "reverse_param { axis: 0 }")
        x = net.dense(f"{name}_both", net.concat(name, [there, back], 2), outputs, axis=2)
    net.softmax(x, 2)
    return net.text
