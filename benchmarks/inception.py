"""Inception v4, as prototxt text: Szegedy et al., AAAI 2017, figures 3 to 9."""

from __future__ import annotations

from definition import Definition

__all__ = ["inception_v4"]

# A step of a branch: output channels, (height, width) of the kernel, stride, and whether the border is padded.
_Step = tuple[int, tuple[int, int], int, bool]


def _same(outputs: int, height: int, width: int) -> _Step:
    return outputs, (height, width), 1, True


def _valid(outputs: int, stride: int = 1) -> _Step:
    return outputs, (3, 3), stride, False


def _branch(net: Definition, name: str, x: str, *steps: _Step) -> str:
    for i, (outputs, (height, width), stride, padded) in enumerate(steps, 1):
        pad = (height // 2, width // 2) if padded else (0, 0)
        kernel = (height, width)
        x = net.convolution(f"{name}_{i}", x, outputs, kernel, stride=stride, pad=pad, normalised=True)
    return x


def _averaged(net: Definition, name: str, x: str, outputs: int) -> str:
    """An average over 3x3 places before a 1x1 convolution."""
    return _branch(net, name, net.pool(f"{name}_pool", x, 3, pad=1, average=True), _same(outputs, 1, 1))


def _stem(net: Definition) -> str:
    x = _branch(net, "stem", "data", _valid(32, 2), _valid(32), _same(64, 3, 3))
    x = net.concat("stem_a", [net.pool("stem_a_pool", x, 3, 2), _branch(net, "stem_a_conv", x, _valid(96, 2))])
    short = _branch(net, "stem_b_short", x, _same(64, 1, 1), _valid(96))
    long = _branch(net, "stem_b_long", x, _same(64, 1, 1), _same(64, 7, 1), _same(64, 1, 7), _valid(96))
    x = net.concat("stem_b", [short, long])
    return net.concat("stem_c", [_branch(net, "stem_c_conv", x, _valid(192, 2)), net.pool("stem_c_pool", x, 3, 2)])


def _a(net: Definition, name: str, x: str) -> str:
    parts = [
        _averaged(net, f"{name}_average", x, 96),
        _branch(net, f"{name}_one", x, _same(96, 1, 1)),
        _branch(net, f"{name}_two", x, _same(64, 1, 1), _same(96, 3, 3)),
        _branch(net, f"{name}_three", x, _same(64, 1, 1), _same(96, 3, 3), _same(96, 3, 3)),
    ]
    return net.concat(name, parts)


def _b(net: Definition, name: str, x: str) -> str:
    long = (_same(192, 1, 1), _same(192, 1, 7), _same(224, 7, 1), _same(224, 1, 7), _same(256, 7, 1))
    parts = [
        _averaged(net, f"{name}_average", x, 128),
        _branch(net, f"{name}_one", x, _same(384, 1, 1)),
        _branch(net, f"{name}_three", x, _same(192, 1, 1), _same(224, 1, 7), _same(256, 7, 1)),
        _branch(net, f"{name}_five", x, *long),
    ]
    return net.concat(name, parts)


def _c(net: Definition, name: str, x: str) -> str:
    parts = [_averaged(net, f"{name}_average", x, 256), _branch(net, f"{name}_one", x, _same(256, 1, 1))]
    two = _branch(net, f"{name}_two", x, _same(384, 1, 1))
    four = _branch(net, f"{name}_four", x, _same(384, 1, 1), _same(448, 1, 3), _same(512, 3, 1))
    for inner in (two, four):
        parts += [_branch(net, f"{inner}_{h}x{w}", inner, _same(256, h, w)) for h, w in ((1, 3), (3, 1))]
    return net.concat(name, parts)


def inception_v4(batch: int, size: int = 299) -> str:
    """Four modules of 35x35, seven of 17x17 and three of 8x8."""
    net = Definition(data=(batch, 3, size, size))
    x = _stem(net)
    for i in range(4):
        x = _a(net, f"a{i}", x)
    parts = [
        net.pool("down_a_pool", x, 3, 2),
        _branch(net, "down_a_one", x, _valid(384, 2)),
        _branch(net, "down_a_three", x, _same(192, 1, 1), _same(224, 3, 3), _valid(256, 2)),
    ]
    x = net.concat("down_a", parts)
    for i in range(7):
        x = _b(net, f"b{i}", x)
    parts = [
        net.pool("down_b_pool", x, 3, 2),
        _branch(net, "down_b_two", x, _same(192, 1, 1), _valid(192, 2)),
        _branch(net, "down_b_four", x, _same(256, 1, 1), _same(256, 1, 7), _same(320, 7, 1), _valid(320, 2)),
    ]
    x = net.concat("down_b", parts)
    for i in range(3):
        x = _c(net, f"c{i}", x)
    x = net.over("Dropout", "drop", net.pool("pool", x, average=True))
    net.softmax(net.dense("classifier", x, 1000))
    return net.text
