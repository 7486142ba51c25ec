"""What may be relied on of messages whose classes are made of a schema while the program runs.

Protobuf's classes have no types that a checker knows. These protocols say what the code here uses: of every message, of
descriptors, and the fields of BVLC's messages that are read by name (which every dialect has, too). A field whose name
is known only at run time is read with ``getattr``, or in a builder with :class:`.params.Params`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, overload

__all__ = [
    "BlobProto",
    "BlobShape",
    "ConvolutionParameter",
    "DataParameter",
    "Datum",
    "Descriptor",
    "EnumDescriptor",
    "EnumValue",
    "FillerParameter",
    "InnerProductParameter",
    "InputParameter",
    "LayerParameter",
    "Message",
    "MessageField",
    "Messages",
    "NetParameter",
    "NetState",
    "NetStateRule",
    "ParamSpec",
    "PoolingParameter",
    "PythonParameter",
    "RecurrentParameter",
    "Scalar",
    "Scalars",
    "SolverParameter",
    "TransformationParameter",
    "V0LayerParameter",
    "V1LayerParameter",
]

# One value of a field that is no message; an enum's is its number.
Scalar: TypeAlias = "bool | int | float | str | bytes"

_T = TypeVar("_T")
_M = TypeVar("_M", bound="Message")


# Descriptors


class EnumValue(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...


class EnumDescriptor(Protocol):
    @property
    def full_name(self) -> str: ...
    @property
    def values(self) -> Sequence[EnumValue]: ...
    @property
    def values_by_name(self) -> Mapping[str, EnumValue]: ...
    @property
    def values_by_number(self) -> Mapping[int, EnumValue]: ...


class MessageField(Protocol):
    """A field of a message; ``type`` and ``cpp_type`` are numbers of protobuf's own FieldDescriptor."""

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def type(self) -> int: ...
    @property
    def cpp_type(self) -> int: ...
    @property
    def is_repeated(self) -> bool: ...  # from protobuf 6.31 on
    @property
    def label(self) -> int: ...  # before that
    @property
    def LABEL_REPEATED(self) -> int: ...
    @property
    def default_value(self) -> Scalar: ...
    @property
    def message_type(self) -> Descriptor | None: ...
    @property
    def enum_type(self) -> EnumDescriptor | None: ...


class Descriptor(Protocol):
    def __hash__(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def full_name(self) -> str: ...
    @property
    def fields(self) -> Sequence[MessageField]: ...
    @property
    def fields_by_name(self) -> Mapping[str, MessageField]: ...
    @property
    def file(self) -> FileDescriptor: ...


class FileDescriptor(Protocol):
    @property
    def enum_types_by_name(self) -> Mapping[str, EnumDescriptor]: ...


# Every message


class Message(Protocol):
    """A message; what the value of a field is, its descriptor says."""

    def __init__(self, **fields: object) -> None: ...
    @classmethod
    def FromString(cls: type[_M], data: bytes) -> _M: ...

    DESCRIPTOR: ClassVar[Descriptor]

    def HasField(self, name: str) -> bool: ...
    def ClearField(self, name: str) -> None: ...
    def CopyFrom(self, other: Message) -> None: ...
    def MergeFromString(self, data: bytes) -> int: ...
    def SetInParent(self) -> None: ...
    def ListFields(self) -> Sequence[tuple[MessageField, Any]]: ...
    def ByteSize(self) -> int: ...
    def DiscardUnknownFields(self) -> None: ...
    def IsInitialized(self) -> bool: ...
    def FindInitializationErrors(self) -> Sequence[str]: ...
    def SerializeToString(self) -> bytes: ...
    def SerializePartialToString(self) -> bytes: ...


class Scalars(Collection[_T], Protocol[_T]):
    """A repeated field of numbers or texts."""

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_T]: ...
    def __setitem__(self, index: int, value: _T) -> None: ...
    def append(self, value: _T) -> None: ...
    def extend(self, values: Iterable[_T]) -> None: ...


class Messages(Collection[_M], Protocol[_M]):
    """A repeated field of messages."""

    @overload
    def __getitem__(self, index: int) -> _M: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_M]: ...
    def __delitem__(self, index: int | slice) -> None: ...
    def add(self, **fields: object) -> _M: ...
    def append(self, value: _M) -> None: ...
    def insert(self, index: int, value: _M) -> None: ...
    def extend(self, values: Iterable[_M]) -> None: ...


# BVLC's messages, as far as their fields are read by name


class BlobShape(Message, Protocol):
    dim: Scalars[int]


class BlobProto(Message, Protocol):
    num: int
    channels: int
    height: int
    width: int
    data: Scalars[float]
    diff: Scalars[float]
    double_data: Scalars[float]
    double_diff: Scalars[float]

    @property
    def shape(self) -> BlobShape: ...


class Datum(Message, Protocol):
    channels: int
    height: int
    width: int
    data: bytes
    label: int
    float_data: Scalars[float]
    encoded: bool


class FillerParameter(Message, Protocol):
    type: str
    value: float
    min: float
    max: float
    mean: float
    std: float
    sparse: int
    variance_norm: int


class ParamSpec(Message, Protocol):
    name: str
    share_mode: int
    lr_mult: float
    decay_mult: float


class NetState(Message, Protocol):
    phase: int
    level: int
    stage: Scalars[str]


class NetStateRule(Message, Protocol):
    phase: int
    min_level: int
    max_level: int
    stage: Scalars[str]
    not_stage: Scalars[str]


class InputParameter(Message, Protocol):
    shape: Messages[BlobShape]


class TransformationParameter(Message, Protocol):
    scale: float
    mirror: bool
    crop_size: int
    mean_file: str
    mean_value: Scalars[float]
    force_color: bool
    force_gray: bool


class LayerParameter(Message, Protocol):
    """A layer; parameters of its type are read with :class:`.params.Params`."""

    name: str
    type: str
    bottom: Scalars[str]
    top: Scalars[str]
    phase: int
    loss_weight: Scalars[float]
    param: Messages[ParamSpec]
    blobs: Messages[BlobProto]
    propagate_down: Scalars[bool]
    include: Messages[NetStateRule]
    exclude: Messages[NetStateRule]

    @property
    def data_param(self) -> DataParameter: ...
    @property
    def convolution_param(self) -> ConvolutionParameter: ...
    @property
    def inner_product_param(self) -> InnerProductParameter: ...
    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def slice_param(self) -> Message: ...
    @property
    def python_param(self) -> PythonParameter: ...
    @property
    def recurrent_param(self) -> RecurrentParameter: ...
    @property
    def input_param(self) -> InputParameter: ...
    @property
    def transform_param(self) -> TransformationParameter: ...


class DataParameter(Message, Protocol):
    batch_size: int


class ConvolutionParameter(Message, Protocol):
    num_output: int
    axis: int
    kernel_size: Scalars[int]
    stride: Scalars[int]
    pad: Scalars[int]


class PythonParameter(Message, Protocol):
    module: str
    layer: str
    param_str: str


class InnerProductParameter(Message, Protocol):
    num_output: int


class PoolingParameter(Message, Protocol):
    pool: int
    kernel_size: int
    stride: int
    pad: int


class RecurrentParameter(Message, Protocol):
    num_output: int

    @property
    def weight_filler(self) -> FillerParameter: ...


class V0LayerParameter(Message, Protocol):
    name: str
    type: str
    pad: int


class V1LayerParameter(Message, Protocol):
    """A layer of 2014; ``layer`` is the one of 2013 inside it."""

    name: str
    type: int
    bottom: Scalars[str]
    top: Scalars[str]
    param: Scalars[str]
    blob_share_mode: Scalars[int]
    blobs_lr: Scalars[float]
    weight_decay: Scalars[float]

    @property
    def pooling_param(self) -> PoolingParameter: ...
    @property
    def slice_param(self) -> Message: ...
    @property
    def python_param(self) -> PythonParameter: ...
    @property
    def layer(self) -> V0LayerParameter: ...
    @property
    def transform_param(self) -> TransformationParameter: ...


class NetParameter(Message, Protocol):
    name: str
    input: Scalars[str]
    input_shape: Messages[BlobShape]
    input_dim: Scalars[int]
    force_backward: bool
    debug_info: bool
    layer: Messages[LayerParameter]
    layers: Messages[V1LayerParameter]

    @property
    def state(self) -> NetState: ...


class SolverParameter(Message, Protocol):
    """A solver; its settings are read by :mod:`caffe_compat.training.solver.settings`."""

    type: str
    test_iter: Scalars[int]
    test_interval: int
    test_net: Scalars[str]
    test_net_param: Messages[NetParameter]
    test_state: Messages[NetState]

    @property
    def net_param(self) -> NetParameter: ...
    @property
    def train_net_param(self) -> NetParameter: ...
    @property
    def train_state(self) -> NetState: ...
