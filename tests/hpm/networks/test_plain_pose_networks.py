"""The pose networks as plain PyTorch: equal bits, batch after batch, as far as they touch no files."""

from __future__ import annotations

import pytest
import torch

from caffe_compat import NetworkError
from caffe_compat.parity.seeded import seeded_inputs
from converters.plain.source import source_of
from hpm.networks import NetworkOptions, define
from tests.converters.plain import module_of, outputs_of, same_bits
from tests.hpm.seeded import seeded_net

# What is left of each network's outputs without the evaluations, which read bounds and write results.
OUTPUTS = {
    "2d_to_3d": ["loss"],
    "3d_to_2d": ["2dprojectloss_tmp"],
    "deploy": ["project_2d"],
    "mask3d": ["loss2d"],
    "pose_2d": ["loss"],
    "template_16_merge": ["2Dloss", "2dprojectloss_tmp"],
    "train_test_cpm": ["loss"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_pose_networks_have_equal_bits(name: str) -> None:
    whole = seeded_net(define(name, NetworkOptions(image_size=64)))
    if name != "deploy":
        with pytest.raises(NetworkError, match=r"plain PyTorch cannot hold it: it touches files; stop before it"):
            source_of(whole)
    net = whole.part(OUTPUTS[name])
    source = source_of(net)
    module = module_of(source)
    inputs = {blob: torch.from_numpy(x) for blob, x in seeded_inputs(net).items()}
    for _ in range(2):
        expected = net.run(inputs)
        outputs = outputs_of(module, source, inputs)
        assert sorted(outputs) == OUTPUTS[name]
        assert all(same_bits(value, expected[blob]) for blob, value in outputs.items())
