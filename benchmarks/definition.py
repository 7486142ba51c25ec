"""Prototxt text, layer by layer: what the definitions of networks in this folder are written with."""

from __future__ import annotations

__all__ = ["Definition"]


class Definition:
    """A network as it grows. What adds a layer returns the blob that comes out, named like the layer.

    >>> net = Definition(data=(1, 3, 8, 8))
    >>> net.convolution("conv1", "data", 4, 3, pad=1)
    'conv1'
    >>> print(net.text.splitlines()[-1])
    layer { name: "conv1_relu" type: "ReLU" bottom: "conv1" top: "conv1" }
    """

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self._layers: list[str] = []
        for name, shape in inputs.items():
            dims = " ".join(f"dim: {n}" for n in shape)
            self.layer("Input", name, "", f"input_param {{ shape {{ {dims} }} }}")

    @property
    def text(self) -> str:
        return "".join(self._layers)

    def layer(self, kind: str, name: str, bottoms: str, parameters: str = "", *, top: str | None = None) -> str:
        """A layer that reads ``bottoms``, separated by blanks."""
        top = name if top is None else top
        wires = "".join(f' bottom: "{bottom}"' for bottom in bottoms.split()) + f' top: "{top}"'
        more = f" {parameters}" if parameters else ""
        self._layers.append(f'layer {{ name: "{name}" type: "{kind}"{wires}{more} }}\n')
        return top

    def over(self, kind: str, name: str, blob: str, parameters: str = "") -> str:
        """A layer that overwrites ``blob``."""
        return self.layer(kind, name, blob, parameters, top=blob)

    def relu(self, blob: str) -> str:
        return self.over("ReLU", f"{blob}_relu", blob)

    def normalised(self, blob: str, *, top: str | None = None, eps: float = 1e-5) -> str:
        """Batch normalisation, which is two layers in Caffe, over ``blob`` unless ``top`` names another."""
        name = top or blob
        self.layer("BatchNorm", f"{name}_bn", blob, f"batch_norm_param {{ eps: {eps} }}", top=name)
        return self.over("Scale", f"{name}_scale", name, "scale_param { bias_term: true }")

    def convolution(
        self,
        name: str,
        bottom: str,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        pad: int | tuple[int, int] = 0,
        group: int = 1,
        dilation: int = 1,
        normalised: bool = False,
        relu: bool = True,
    ) -> str:
        """A convolution with a bias, or with batch normalisation instead, and a ReLU. Pairs are (height, width)."""
        sizes = f"num_output: {outputs} " + _pair("kernel", kernel, single="kernel_size")
        sizes += f" stride: {stride} " + _pair("pad", pad, single="pad") + f" group: {group} dilation: {dilation}"
        sizes += " bias_term: false" if normalised else ""
        self.layer("Convolution", name, bottom, f"convolution_param {{ {sizes} }}")
        if normalised:
            self.normalised(name)
        return self.relu(name) if relu else name

    def pool(
        self,
        name: str,
        bottom: str,
        kernel: int | tuple[int, int] = 0,
        stride: int | tuple[int, int] = 1,
        *,
        pad: int = 0,
        average: bool = False,
    ) -> str:
        """Pooling; of the whole image without a kernel. Sizes are rounded up, as always in Caffe."""
        sizes = f"pool: {'AVE' if average else 'MAX'} "
        if kernel:
            sizes += f"{_pair('kernel', kernel, 'kernel_size')} {_pair('stride', stride, 'stride')} pad: {pad}"
        else:
            sizes += "global_pooling: true"
        return self.layer("Pooling", name, bottom, f"pooling_param {{ {sizes} }}")

    def dense(self, name: str, bottom: str, outputs: int, *, axis: int = 1, relu: bool = False) -> str:
        self.layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} axis: {axis} }}")
        return self.relu(name) if relu else name

    def across(self, name: str, bottom: str) -> str:
        """Normalisation over five channels, as of AlexNet."""
        return self.layer("LRN", name, bottom, "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def concat(self, name: str, bottoms: list[str], axis: int = 1) -> str:
        return self.layer("Concat", name, " ".join(bottoms), f"concat_param {{ axis: {axis} }}")

    def sum(self, name: str, *bottoms: str) -> str:
        return self.layer("Eltwise", name, " ".join(bottoms), "eltwise_param { operation: SUM }")

    def softmax(self, bottom: str, axis: int = 1) -> str:
        return self.layer("Softmax", "prob", bottom, f"softmax_param {{ axis: {axis} }}")


def _pair(field: str, value: int | tuple[int, int], single: str) -> str:
    if isinstance(value, int):
        return f"{single}: {value}"
    return f"{field}_h: {value[0]} {field}_w: {value[1]}"
