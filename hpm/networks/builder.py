"""A ``NetParameter`` built layer by layer, with what the layers of the pose networks have in common."""

from __future__ import annotations

from collections.abc import Mapping

from caffe_compat.schema import load_schema

from .options import NetworkOptions

__all__ = ["DIALECT", "FROZEN", "GAUSSIAN", "TRANSFORM", "XAVIER", "NetworkBuilder", "Rates"]

DIALECT = "chanyn/3Dpose_ssl"

# Multipliers of the learning rate, for the weight and the bias. None leaves Caffe's 1 and 1.
Rates = tuple[float, float] | None
FROZEN: Rates = (0, 0)

GAUSSIAN = {"type": "gaussian", "std": 0.01}
XAVIER = {"type": "xavier"}
TRANSFORM = {"scale": 1 / 256, "mean_value": [128]}


class NetworkBuilder:
    """A ``NetParameter`` that grows layer by layer. Bottoms and tops are blob names parted by blanks."""

    def __init__(self, options: NetworkOptions) -> None:
        self.options = options
        self.message = load_schema(DIALECT).message("NetParameter")()

    def add(
        self,
        kind: str,
        name: str,
        bottoms: str,
        tops: str = "",
        *,
        phase: str | None = None,
        rates: Rates = None,
        **fields: object,
    ) -> None:
        """Add a layer. Biases do not decay, nor does anything that is not trained."""
        if rates is not None:
            weight, bias = rates
            fields["param"] = [
                {"lr_mult": weight, "decay_mult": 1 if weight else 0},
                {"lr_mult": bias, "decay_mult": 0},
            ]
        if phase is not None:
            fields["include"] = [{"phase": phase}]
        self.message.layer.add(name=name, type=kind, bottom=bottoms.split(), top=tops.split(), **fields)

    def stop_gradient(self, name: str) -> None:
        """Let no gradient pass below the layer."""
        layer = next(layer for layer in self.message.layer if layer.name == name)
        layer.propagate_down.extend([False] * len(layer.bottom))

    def relu(self, name: str, blob: str) -> None:
        self.add("ReLU", name, blob, blob)

    def conv(
        self,
        name: str,
        bottom: str,
        channels: int,
        rates: Rates,
        filler: Mapping[str, object],
        *,
        kernel: int = 3,
        pad: int = 1,
        stride: int | None = None,
    ) -> None:
        fields = {"num_output": channels, "kernel_size": [kernel], "pad": [pad]}
        fields |= {"weight_filler": filler, "bias_filler": {"type": "constant"}}
        if stride is not None:
            fields["stride"] = [stride]
        self.add("Convolution", name, bottom, name, rates=rates, convolution_param=fields)

    def linear(
        self, name: str, bottom: str, outputs: int, rates: Rates, *, top: str | None = None, phase: str | None = None
    ) -> None:
        fields = {"num_output": outputs, "weight_filler": GAUSSIAN, "bias_filler": {"type": "constant", "value": 0}}
        self.add("InnerProduct", name, bottom, top or name, rates=rates, phase=phase, inner_product_param=fields)

    def linear_relu(self, name: str, bottom: str, rates: Rates) -> None:
        """A layer of the projector's size with its ReLU."""
        self.linear(name, bottom, self.options.projector, rates)
        self.relu(f"relu_{name}", name)

    def lstm(self, name: str, bottom: str, rates: Rates) -> None:
        filler = {"type": "uniform", "min": -0.01, "max": 0.01}
        fields = {
            "num_output": self.options.hidden,
            "weight_filler": filler,
            "bias_filler": {"type": "constant", "value": 0},
        }
        self.add("LSTM", name, f"{bottom} clip", name, rates=rates, recurrent_param=fields)

    def reshape(self, name: str, bottom: str, top: str, *dims: int) -> None:
        self.add("Reshape", name, bottom, top, reshape_param={"shape": {"dim": dims}})

    def slice(self, name: str, bottom: str, tops: str, axis: int, *points: int, phase: str | None = None) -> None:
        self.add("Slice", name, bottom, tops, phase=phase, slice_param={"axis": axis, "slice_point": points})

    def sum(self, name: str, bottoms: str, top: str) -> None:
        self.add("Eltwise", name, bottoms, top, eltwise_param={"operation": "SUM"})

    def euclidean(self, name: str, bottoms: str, phase: str | None = None) -> None:
        self.add("EuclideanLoss", name, bottoms, name, phase=phase)

    def bones(self, name: str, bottoms: str, dim: int) -> None:
        self.add("SkelVectorLoss", name, bottoms, name, phase="TRAIN", skel_vector_param={"dim": dim})

    def evaluation(self, name: str, bottoms: str, csv: str | None = None, phase: str | None = None) -> None:
        """MPJPE in millimetres, without a gradient. Without ``csv`` poses go to ``result.txt``, the fork's default."""
        fields = {"sample_num": 30, "scale": 1, "max_min_normalize": True, "max_min_source": self.options.bounds}
        if csv is not None:
            fields["save_filepath"] = csv
        self.add("MPJPEEvaluation", name, bottoms, name, phase=phase, loss_weight=[0], mpjpe_param=fields)
