"""What a net consists of, under the names by which scripts ask for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ..network.net import CaffeNet
from .blob import BlobVec, NetBlob
from .steps import Step

__all__ = ["NetContents"]


class NetContents:
    """The layers, blobs and parameters of a net, by name and in order."""

    _core: CaffeNet
    _steps: list[Step]
    _blob_by_name: OrderedDict[str, NetBlob]
    _loss_weights: OrderedDict[str, float]

    @property
    def blobs(self) -> OrderedDict[str, NetBlob]:
        """The blobs by name, from the first layer to the last."""
        return self._blob_by_name

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Each blob's weight in the loss."""
        return self._loss_weights

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """The parameters of every layer that has some: weights, then biases ..."""
        return OrderedDict((step.name, step.blobs) for step in self._steps if step.blobs)

    @property
    def layers(self) -> list[Any]:
        return [step.public for step in self._steps]

    @property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """The layers by name."""
        return OrderedDict((step.name, step.public) for step in self._steps)

    @property
    def inputs(self) -> list[str]:
        """The tops of Input layers."""
        return [blob.name for step in self._steps if step.type == "Input" for blob in step.tops]

    @property
    def outputs(self) -> list[str]:
        """The blobs that no layer reads."""
        return list(self._core.output_names)

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """By layer: the blobs that it reads."""
        return OrderedDict((step.name, list(step.wire.bottoms)) for step in self._steps)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """By layer: the blobs that it makes."""
        return OrderedDict((step.name, list(step.wire.tops)) for step in self._steps)

    # What scripts use although its names start with an underscore

    @property
    def _layer_names(self) -> list[str]:
        return [step.name for step in self._steps]

    @property
    def _blob_names(self) -> list[str]:
        return list(self._blob_by_name)

    @property
    def _blobs(self) -> list[NetBlob]:
        return list(self._blob_by_name.values())

    @property
    def _blob_loss_weights(self) -> list[float]:
        return list(self._loss_weights.values())

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    def _top_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._steps[layer].wire.tops]

    def _bottom_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._steps[layer].wire.bottoms]
