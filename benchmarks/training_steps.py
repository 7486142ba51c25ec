"""A training step of classic networks, next to a loop that one would write by hand in PyTorch with the same layers.

    python benchmarks/training_steps.py [--only NAME] [--seconds 10] [--threads 1 --threads 2] [--device cpu]

LeNet and cifar10_full with Caffe's batches, AlexNet with 16 images, the pose network with 8 of 64 x 64: ours is
:class:`Solver` with Caffe's SGD, as ``caffe-compat train`` runs it, the other ``nn.Sequential`` with
``torch.optim.SGD``. Both read the loss in every step, and both are given the same batch, which is in memory. Medians of
steps by turns; ``MISS`` is said only where 1 lies outside of the spread of the ratio. (``training.py`` trains the pose
network as its authors did, next to real Caffe.)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from definition import Definition
from networks import TRUNK, draw_weights, pose_network
from peers import Spread, by_turns
from torch import Tensor, nn

from caffe_compat.network.graph import NetState
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.training.solver import Solver, parse_solver
from caffe_compat.training.solver.settings import NetSource
from caffe_compat.training.solver.structure import LearnableBlob

__all__ = ["NETWORKS", "Training", "by_hand", "solver_of"]

SGD = 'net: "in Python" type: "SGD" lr_policy: "fixed" snapshot_prefix: "none" random_seed: 1 max_iter: 1000000 '


@dataclass(frozen=True)
class Training:
    """A network with a loss, twice.

    Attributes:
        text: prototxt with inputs ``data`` and ``label``, and those of ``more``; the loss comes last.
        layers: the same in torch's own layers, but for the loss. loss: of their output and the labels.
        shape: of the batch. labels, more: its labels, and what else it has, as functions of how many images it is of.
        rate, momentum, decay: of SGD.
    """

    text: Callable[[tuple[int, ...]], str]
    layers: Callable[[], list[nn.Module]]
    shape: tuple[int, int, int, int]
    labels: Callable[[int], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    more: Callable[[int], dict[str, Tensor]] = lambda images: {}
    rate: float = 1e-4
    momentum: float = 0.9
    decay: float = 5e-4


def _with_loss(net: Definition, scores: str) -> str:
    net.layer("SoftmaxWithLoss", "loss", f"{scores} label")
    return net.text


def _inputs(shape: tuple[int, ...]) -> Definition:
    return Definition(data=shape, label=(shape[0],))


def lenet(shape: tuple[int, ...]) -> str:
    net = _inputs(shape)
    top = net.pool("pool1", net.convolution("conv1", "data", 20, 5, relu=False), 2, 2)
    top = net.pool("pool2", net.convolution("conv2", top, 50, 5, relu=False), 2, 2)
    return _with_loss(net, net.dense("ip2", net.dense("ip1", top, 500, relu=True), 10))


def lenet_layers() -> list[nn.Module]:
    return [
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10)),
    ]


_WITHIN = "lrn_param { local_size: 3 alpha: 5e-05 beta: 0.75 norm_region: WITHIN_CHANNEL }"


def cifar10_full(shape: tuple[int, ...]) -> str:
    net = _inputs(shape)
    top = net.relu(net.pool("pool1", net.convolution("conv1", "data", 32, 5, pad=2, relu=False), 3, 2))
    top = net.layer("LRN", "norm1", top, _WITHIN)
    top = net.pool("pool2", net.convolution("conv2", top, 32, 5, pad=2), 3, 2, average=True)
    top = net.layer("LRN", "norm2", top, _WITHIN)
    top = net.pool("pool3", net.convolution("conv3", top, 64, 5, pad=2), 3, 2, average=True)
    return _with_loss(net, net.dense("ip1", top, 10))


class WithinChannel(nn.Module):
    """x * (1 + alpha * mean of x^2 over 3x3 pixels)^-beta."""

    def forward(self, x: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(x * x, 3, 1, 1)
        return x * (means * 5e-5 + 1).pow(-0.75)


def cifar10_full_layers() -> list[nn.Module]:
    def average() -> nn.Module:
        return nn.AvgPool2d(3, 2, ceil_mode=True)

    return [
        *(nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(inplace=True), WithinChannel()),
        *(nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(inplace=True), average(), WithinChannel()),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(inplace=True), average(), nn.Flatten(), nn.Linear(1024, 10)),
    ]


def alexnet(shape: tuple[int, ...]) -> str:
    net = _inputs(shape)
    top = net.pool("pool1", net.across("norm1", net.convolution("conv1", "data", 96, 11, stride=4)), 3, 2)
    top = net.pool("pool2", net.across("norm2", net.convolution("conv2", top, 256, 5, pad=2, group=2)), 3, 2)
    top = net.convolution("conv3", top, 384, 3, pad=1)
    top = net.convolution("conv4", top, 384, 3, pad=1, group=2)
    top = net.pool("pool5", net.convolution("conv5", top, 256, 3, pad=1, group=2), 3, 2)
    for name in ("fc6", "fc7"):
        top = net.dense(name, top, 4096, relu=True)
        net.over("Dropout", f"{name}_drop", top, "dropout_param { dropout_ratio: 0.5 }")
    return _with_loss(net, net.dense("fc8", top, 1000))


def alexnet_layers() -> list[nn.Module]:
    def across() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)

    def dense(inputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)]

    return [
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(inplace=True), across(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True), across(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(*dense(9216), *dense(4096), nn.Linear(4096, 1000)),
    ]


def mask3d(shape: tuple[int, ...]) -> str:
    net = Definition(label=(shape[0], 32))
    net.layer("EuclideanLoss", "loss", "project_2d label")
    return pose_network(shape[0], shape[2]) + net.text


class Frames(nn.Module):
    """An LSTM over the frames of one sequence: (T, 1024) to (T, 1024)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1024, 1024)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.lstm(x)[0]
        return outputs


class Projection(nn.Module):
    """3D poses to 2D poses, (T, 48) to (T, 32), with what the first layer gives added to what the third does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(48, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 1024)
        self.last = nn.Linear(1024, 32)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x).relu()
        flat: Tensor = self.last(first + self.third(self.second(first).relu()).relu())
        return flat


def mask3d_layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for entry in TRUNK:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        else:
            layers += [nn.Conv2d(channels, entry[1], 3, padding=1), nn.ReLU(inplace=True)]
            channels = entry[1]
    for _ in range(2):
        layers += [nn.Conv2d(128, 128, 5, stride=2, padding=1), nn.ReLU(inplace=True)]
    layers += [nn.Flatten(), nn.Linear(128, 1024), Frames(), Frames(), nn.Linear(1024, 48)]
    return [*layers, nn.Linear(48, 1024), nn.ReLU(inplace=True), nn.Linear(1024, 48), Projection()]


def of_classes(count: int) -> Callable[[int], Tensor]:
    return lambda images: torch.from_numpy(np.random.default_rng(1).integers(0, count, images))


def of_poses(images: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((images, 32), np.float32))


def one_sequence(frames: int) -> dict[str, Tensor]:
    """Zero where a sequence begins, one where it goes on."""
    clip = torch.ones(frames, 1)
    clip[0] = 0
    return {"clip": clip}


def half_squares(x: Tensor, label: Tensor) -> Tensor:
    """Caffe's Euclidean loss: half of the squared distances, divided by how many there are."""
    return (x - label).square().sum() / (2 * len(x))


NETWORKS: dict[str, Training] = {
    "lenet": Training(lenet, lenet_layers, (64, 1, 28, 28), of_classes(10)),
    "cifar10_full": Training(cifar10_full, cifar10_full_layers, (100, 3, 32, 32), of_classes(10)),
    "alexnet": Training(alexnet, alexnet_layers, (16, 3, 227, 227), of_classes(1000)),
    "mask3d": Training(mask3d, mask3d_layers, (8, 3, 64, 64), of_poses, half_squares, one_sequence),
}


def batch_of(training: Training, device: torch.device) -> dict[str, Tensor]:
    images = training.shape[0]
    data = torch.from_numpy(np.random.default_rng(0).standard_normal(training.shape, np.float32))
    batch = {"data": data, "label": training.labels(images), **training.more(images)}
    return {name: x.to(device) for name, x in batch.items()}


def solver_of(training: Training, device: torch.device) -> Solver:
    """Ours, which takes the same batch in every step."""
    parsed = parse_message(training.text(training.shape))
    rules = f"base_lr: {training.rate} momentum: {training.momentum} weight_decay: {training.decay}"
    source = NetSource("in Python", None, parsed.message, parsed.schema, "TRAIN")
    settings = replace(parse_solver(SGD + rules), train=source)
    net = CaffeNet(parsed.message, NetState("TRAIN"), dialect=parsed.schema.name)
    draw_weights(net.train())
    batch = {name: x.float() for name, x in batch_of(training, device).items()}
    return Solver(settings, net, lambda index: batch, device=device)


def by_hand(training: Training, device: torch.device, solver: Solver | None = None) -> Callable[[], float]:
    """A step of the loop that one would write, with the weights of ``solver`` if there is one; it gives the loss."""
    model = nn.Sequential(*training.layers()).to(device).train()
    if solver is not None:
        copy_weights(solver.learnable, model)
    optimizer = torch.optim.SGD(
        model.parameters(), training.rate, momentum=training.momentum, weight_decay=training.decay
    )
    batch = batch_of(training, device)
    data, label = batch["data"], batch["label"]

    def step() -> float:
        optimizer.zero_grad()
        loss = training.loss(model(data), label)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@torch.no_grad()
def copy_weights(blobs: Sequence[LearnableBlob], model: nn.Module) -> None:
    """Blobs of Caffe's layers into the layers of ``model``, which are in the same order."""
    left = iter(blobs)
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            # Caffe's gates are i, f, o, g, torch's i, f, g, o; its second bias does the same as its first.
            parameters = dict(module.named_parameters())
            for name in ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0"):
                i, f, o, g = next(left).tensor.view_as(parameters[name]).chunk(4)
                parameters[name].copy_(torch.cat([i, f, g, o]))
            parameters["bias_hh_l0"].zero_().requires_grad_(False)
        else:
            for own in module.parameters(recurse=False):
                own.copy_(next(left).tensor.view_as(own))
    assert next(left, None) is None, "a blob is left over"


def compared(name: str, device: torch.device, seconds: float) -> bool:
    """Print a row; whether the target is reached, or within the spread."""
    solver = solver_of(NETWORKS[name], device)
    theirs = by_hand(NETWORKS[name], device, solver)
    runs = {"ours": lambda: _run(lambda: solver.step(1), device), "theirs": lambda: _run(theirs, device)}
    took = by_turns(runs, seconds, (5, 500))
    ratio = Spread.of([hand / own for hand, own in zip(took["theirs"], took["ours"], strict=True)])
    middle = {run: float(np.median(times)) * 1e3 for run, times in took.items()}
    reached = ratio.reaches(1.0)
    threads = torch.get_num_threads()
    print(
        f"| {name} x{NETWORKS[name].shape[0]} | {threads} | {middle['ours']:.2f} | {middle['theirs']:.2f} | {ratio} | "
        f"{reached} |",
        flush=True,
    )
    return reached != "MISS"


def _run(step: Callable[[], object], device: torch.device) -> None:
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[], choices=NETWORKS, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring a row, about")
    parser.add_argument("--threads", action="append", type=int, default=[])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print("Milliseconds of a step, medians. Ratios are of steps by turns: half lie between the numbers in brackets.")
    print("| network | threads | ours | by hand | by hand / ours | |\n|---|---|---|---|---|---|")
    good = True
    for threads in options.threads or (1, 2):
        torch.set_num_threads(threads)
        for name in options.only or NETWORKS:
            good &= compared(name, torch.device(options.device), options.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
