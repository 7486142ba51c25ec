"""Networks that name what is in a picture, as prototxt text. Structure and sizes are those of the papers named."""

from __future__ import annotations

from definition import Definition

__all__ = [
    "alexnet",
    "densenet121",
    "googlenet",
    "mobilenet_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg16",
    "vgg16_convolutions",
]


def alexnet(batch: int, size: int = 227) -> str:
    """Krizhevsky et al., NIPS 2012, with two groups and normalisation before pooling."""
    net = Definition(data=(batch, 3, size, size))
    x = net.convolution("conv1", "data", 96, 11, stride=4)
    x = net.pool("pool1", net.across("norm1", x), 3, 2)
    x = net.convolution("conv2", x, 256, 5, pad=2, group=2)
    x = net.pool("pool2", net.across("norm2", x), 3, 2)
    x = net.convolution("conv3", x, 384, 3, pad=1)
    x = net.convolution("conv4", x, 384, 3, pad=1, group=2)
    x = net.convolution("conv5", x, 256, 3, pad=1, group=2)
    return _dense_end(net, net.pool("pool5", x, 3, 2))


def _dense_end(net: Definition, x: str) -> str:
    """Two layers of 4,096 with dropout, which does nothing in a test, and 1,000 classes."""
    for name in ("fc6", "fc7"):
        x = net.dense(name, x, 4096, relu=True)
        net.over("Dropout", f"{name}_drop", x)
    net.softmax(net.dense("fc8", x, 1000))
    return net.text


def googlenet(batch: int, size: int = 224) -> str:
    """Szegedy et al., CVPR 2015, without the classifiers that only training has."""
    net = Definition(data=(batch, 3, size, size))
    x = net.convolution("conv1", "data", 64, 7, stride=2, pad=3)
    x = net.across("norm1", net.pool("pool1", x, 3, 2))
    x = net.convolution("conv2", net.convolution("conv2_reduce", x, 64, 1), 192, 3, pad=1)
    x = net.pool("pool2", net.across("norm2", x), 3, 2)
    # Channels of 1x1; before and of 3x3; before and of 5x5; of 1x1 after pooling. Table 1 of the paper.
    modules = {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }
    for name, (one, before3, three, before5, five, pooled) in modules.items():
        parts = [
            net.convolution(f"{name}_1x1", x, one, 1),
            net.convolution(f"{name}_3x3", net.convolution(f"{name}_3x3_reduce", x, before3, 1), three, 3, pad=1),
            net.convolution(f"{name}_5x5", net.convolution(f"{name}_5x5_reduce", x, before5, 1), five, 5, pad=2),
            net.convolution(f"{name}_proj", net.pool(f"{name}_pool", x, 3, pad=1), pooled, 1),
        ]
        x = net.concat(name, parts)
        if name in ("3b", "4e"):
            x = net.pool(f"{name}_down", x, 3, 2)
    net.softmax(net.dense("classifier", net.pool("pool5", x, average=True), 1000))
    return net.text


def vgg16_convolutions(net: Definition, *, first_pad: int = 1) -> str:
    """The five blocks of convolutions of VGG-16, with a pool after each but the last."""
    x = "data"
    for block, (outputs, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for i in range(1, count + 1):
            x = net.convolution(f"conv{block}_{i}", x, outputs, 3, pad=first_pad if x == "data" else 1)
        if block < 5:
            x = net.pool(f"pool{block}", x, 2, 2)
    return x


def vgg16(batch: int, size: int = 224) -> str:
    """Simonyan and Zisserman, ICLR 2015, configuration D."""
    net = Definition(data=(batch, 3, size, size))
    return _dense_end(net, net.pool("pool5", vgg16_convolutions(net), 2, 2))


def squeezenet(batch: int, size: int = 227) -> str:
    """SqueezeNet 1.1: Iandola et al., arXiv 1602.07360, with the changes of its authors' second release."""
    net = Definition(data=(batch, 3, size, size))
    x = net.pool("pool1", net.convolution("conv1", "data", 64, 3, stride=2), 3, 2)
    for i, (squeezed, expanded) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)), 2
    ):
        x = net.convolution(f"fire{i}_squeeze", x, squeezed, 1)
        one = net.convolution(f"fire{i}_1x1", x, expanded, 1)
        three = net.convolution(f"fire{i}_3x3", x, expanded, 3, pad=1)
        x = net.concat(f"fire{i}", [one, three])
        if i in (3, 5):
            x = net.pool(f"pool{i}", x, 3, 2)
    x = net.convolution("conv10", x, 1000, 1)
    net.softmax(net.pool("pool10", x, average=True))
    return net.text


def resnet50(batch: int, size: int = 224) -> str:
    """He et al., CVPR 2016: a block halves the image in its first convolution."""
    net = Definition(data=(batch, 3, size, size))
    x = net.pool("pool1", net.convolution("conv1", "data", 64, 7, stride=2, pad=3, normalised=True), 3, 2)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 2):
        for block in range(blocks):
            name, stride = f"res{stage}_{block}", 2 if block == 0 and stage > 2 else 1
            inner = net.convolution(f"{name}_a", x, width, 1, stride=stride, normalised=True)
            inner = net.convolution(f"{name}_b", inner, width, 3, pad=1, normalised=True)
            inner = net.convolution(f"{name}_c", inner, width * 4, 1, normalised=True, relu=False)
            if block == 0:
                x = net.convolution(f"{name}_side", x, width * 4, 1, stride=stride, normalised=True, relu=False)
            x = net.relu(net.sum(name, x, inner))
    net.softmax(net.dense("classifier", net.pool("pool5", x, average=True), 1000))
    return net.text


def densenet121(batch: int, size: int = 224) -> str:
    """Huang et al., CVPR 2017: growth of 32 channels, and half of them kept between blocks."""
    net = Definition(data=(batch, 3, size, size))
    x = net.convolution("conv1", "data", 64, 7, stride=2, pad=3, normalised=True)
    x, channels = net.pool("pool1", x, 3, 2), 64
    for block, count in enumerate((6, 12, 24, 16), 1):
        for i in range(count):
            name = f"dense{block}_{i}"
            inner = net.relu(net.normalised(x, top=f"{name}_in"))
            inner = net.convolution(f"{name}_1x1", inner, 128, 1, normalised=True)
            # The sum of the paper's counts has no bias here either.
            sizes = "num_output: 32 kernel_size: 3 pad: 1 bias_term: false"
            inner = net.layer("Convolution", f"{name}_3x3", inner, f"convolution_param {{ {sizes} }}")
            x, channels = net.concat(name, [x, inner]), channels + 32
        x = net.relu(net.normalised(x, top=f"between{block}"))
        if block < 4:
            channels //= 2
            sizes = f"num_output: {channels} kernel_size: 1 bias_term: false"
            x = net.layer("Convolution", f"half{block}", x, f"convolution_param {{ {sizes} }}")
            x = net.pool(f"down{block}", x, 2, 2, average=True)
    net.softmax(net.dense("classifier", net.pool("pool5", x, average=True), 1000))
    return net.text


def mobilenet_v2(batch: int, size: int = 224) -> str:
    """Sandler et al., CVPR 2018, with ReLU for ReLU6, which Caffe has not."""
    net = Definition(data=(batch, 3, size, size))
    x, channels = net.convolution("conv1", "data", 32, 3, stride=2, pad=1, normalised=True), 32
    # Expansion, channels, blocks, stride of the first. Table 2 of the paper.
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for stage, (expansion, outputs, blocks, first) in enumerate(stages, 1):
        for block in range(blocks):
            name, stride, width = f"block{stage}_{block}", first if block == 0 else 1, channels * expansion
            inner = x if expansion == 1 else net.convolution(f"{name}_wide", x, width, 1, normalised=True)
            inner = net.convolution(f"{name}_each", inner, width, 3, stride=stride, pad=1, group=width, normalised=True)
            inner = net.convolution(f"{name}_narrow", inner, outputs, 1, normalised=True, relu=False)
            x = net.sum(name, x, inner) if stride == 1 and channels == outputs else inner
            channels = outputs
    x = net.convolution("last", x, 1280, 1, normalised=True)
    net.softmax(net.dense("classifier", net.pool("pool", x, average=True), 1000))
    return net.text


def shufflenet(batch: int, size: int = 224) -> str:
    """Zhang et al., CVPR 2018: three groups, full width; the first of its grouped convolutions has one group."""
    net, groups = Definition(data=(batch, 3, size, size)), 3
    x, channels = net.pool("pool1", net.convolution("conv1", "data", 24, 3, stride=2, pad=1, normalised=True), 3, 2), 24
    for stage, (outputs, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), 2):
        for block in range(blocks):
            name, down = f"stage{stage}_{block}", block == 0
            inside, made = outputs // 4, outputs - channels if down else outputs
            first = 1 if stage == 2 and down else groups
            inner = net.convolution(f"{name}_in", x, inside, 1, group=first, normalised=True)
            told = f"shuffle_channel_param {{ group: {groups} }}"
            inner = net.layer("ShuffleChannel", f"{name}_shuffle", inner, told)
            inner = net.convolution(
                *(f"{name}_each", inner, inside, 3),
                stride=2 if down else 1,
                pad=1,
                group=inside,
                normalised=True,
                relu=False,
            )
            inner = net.convolution(f"{name}_out", inner, made, 1, group=groups, normalised=True, relu=False)
            if down:
                x = net.concat(name, [net.pool(f"{name}_side", x, 3, 2, average=True), inner])
            else:
                x = net.sum(name, x, inner)
            x, channels = net.relu(x), outputs
    net.softmax(net.dense("classifier", net.pool("pool", x, average=True), 1000))
    return net.text
