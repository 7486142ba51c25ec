"""How long the boxes of a picture take: Faster R-CNN's proposals out of 6,000 anchors, and suppression of 6,000 boxes.

    python benchmarks/detection.py

Times are the least of some rounds of processor time of one core, so that a busy machine troubles them little.
"""

from __future__ import annotations

import sys
import time

import torch
from peers import drop, fastest, verdict

from caffe_compat.layers.forks.boxes import best_apart, overlap
from caffe_compat.network.net import CaffeNet
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.schema.upgrade import upgrade_net

ROUNDS = 15
BOXES = 6000
# A map of 38 x 63 cells, of a picture of 600 x 1000 pixels, has 21,546 anchors; the best 6,000 are looked at.
CELLS = (38, 63)
MILLISECONDS = 20.0

PROPOSAL = """
input: "scores" input_shape { dim: 1 dim: 18 dim: 38 dim: 63 }
input: "deltas" input_shape { dim: 1 dim: 36 dim: 38 dim: 63 }
input: "im_info" input_shape { dim: 1 dim: 3 }
layer { name: "proposal" type: "Python" bottom: "scores" bottom: "deltas" bottom: "im_info" top: "rois"
  python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "'feat_stride': 16" } }
"""


def crowd(count: int, objects: int = 60) -> torch.Tensor:
    """Boxes about ``objects`` of 40 to 300 pixels a side in a picture of 600 x 1000, in any order, (count, 4)."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=generator) * torch.tensor([700.0, 300.0])
    there = torch.cat([corner, corner + 40 + 260 * torch.rand(objects, 2, generator=generator)], 1)
    chosen = there[torch.randint(objects, (count,), generator=generator)]
    sides = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return chosen + 0.06 * sides * torch.randn(count, 4, generator=generator)


def proposals() -> CaffeNet:
    """The layer alone, as a network."""
    parsed = parse_message(PROPOSAL)
    return CaffeNet(upgrade_net(parsed.message, parsed.schema).message).materialize(0)


def main() -> int:
    """Print a line for each; the exit status is 1 if one is too slow."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    boxes, net = crowd(BOXES), proposals()
    given = {
        "scores": torch.rand(1, 18, *CELLS, generator=generator),
        "deltas": torch.randn(1, 36, *CELLS, generator=generator) * 0.1,
        "im_info": torch.tensor([[600.0, 1000.0, 1.6]]),
    }
    took = fastest(
        {
            "suppression of 6,000 boxes": lambda: drop(best_apart(boxes, 0.7, overlap)),
            "proposals, 300 of 6,000 of 21,546": lambda: drop(net.run(given)),
        },
        ROUNDS,
        time.process_time,
    )
    good = [verdict(name, 1000 * least, MILLISECONDS, " ms") for name, least in took.items()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
