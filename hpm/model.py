"""The pose machine in one object.

    from hpm.model import PoseMachine
    machine = PoseMachine.from_pretrained("mask3d.pt")
    coarse = machine.coarse(frames)                     # (n, 16, 3), normalised
    refined = machine.refine(coarse, pose2d, unit="mm")  # (n, 16, 3), millimetres

Poses have the joints of :data:`hpm.skeleton.H36M16`. Units: *normalised* 3D values are those of the lists (see
:mod:`hpm.scaling`), millimetres are hip-centred; 2D values are fractions of a square crop's side. Which millimetres
normalised values stand for depends on the bounds that the network was trained with, so those belong to the model and a
``.pt`` holds them. Arrays come back as what they came in as: numpy for numpy, tensors (on the machine's device) for
tensors.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from caffe_compat import CaffeNet, NetState
from caffe_compat.access import FileAccess
from caffe_compat.errors import CaffeCompatWarning, UsageError, WeightsError
from caffe_compat.inference.preprocess import Preprocess
from caffe_compat.network.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from caffe_compat.network.definition import Definition, read_definition
from caffe_compat.network.loading import build_net
from caffe_compat.parity.compare import CaseResult
from caffe_compat.parity.precision import ieee_float32
from caffe_compat.parity.record import ParityRecord, fingerprint
from caffe_compat.parity.verification import verify as verify_net

from .files.checkpoint_extras import extra_entries, stored_bounds, stored_pose_blob
from .measured import Measured, Unit
from .network_input import MEAN, SCALE, clip_values, network_input
from .networks import endpoints as ends
from .networks.subnetworks import Halves, input_shapes, layers_for
from .parity_gate import parity_of, require_parity
from .projector import LAYERS, POSE_2D, POSE_3D, Projector, project
from .refine import ORIGINAL, Refiner, RefineSettings
from .scaling import Bounds, check_agreement
from .skeleton import H36M16

__all__ = ["PoseMachine", "Prediction"]

Array = TypeVar("Array", np.ndarray, Tensor)

WINDOW = 5
"""Frames that the original's networks saw together in every phase of their training."""


@dataclass(frozen=True)
class Prediction(Generic[Array]):
    """What the network gives for n frames."""

    pose: Array
    """(n, 48) coarse 3D, normalised; (n, 32) of a 2D network, fractions of the crop's side."""
    change: Array | None
    """(n, 48) the correction module's pose, normalised; None of a network without one."""


class PoseMachine(Measured):
    """A pose network with its correction module and projector, where it has them.

    Args:
        net: of phase TEST. The pose is the blob that its last InvertedOrder layer gives.
        bounds: what normalised 3D values refer to, those of the training data; None if that is not known. Then the
            published ones are assumed, with a warning when millimetres are asked for.
        pose_blob: the blob with the pose, for networks that are put together otherwise.
        parity: the record that ``net`` reproduced its reference.
        sources: the files that ``net`` came from, or what a ``.pt`` recorded of them, for :meth:`save`.

    ``window`` is how many frames the network saw together when it learned: the original's 5, unless set otherwise.
    ``copy.deepcopy``, ``pickle`` and ``torch.save`` keep everything: weights, bounds, the parity record, and what the
    recurrent layers have seen. An optimised machine is optimised anew, with the weights of then.

    Raises:
        UsageError: a net that takes no images, or whose pose is not found or has neither 48 nor 32 values.

    Example:
        >>> from hpm.files.pictures import read_frames
        >>> machine = PoseMachine.from_pretrained("mask3d.pt")
        >>> frames = list(read_frames(["walk"]))  # 20 pictures (64, 64, 3), uint8, blue first
        >>> coarse = machine.coarse(frames)
        >>> coarse.shape, machine.millimetres(coarse).shape
        ((20, 16, 3), (20, 16, 3))
        >>> seen = machine.project(coarse)  # fractions of the crop's side
        >>> machine.refine(coarse, seen, unit="mm").shape
        (20, 16, 3)
    """

    def __init__(
        self,
        net: CaffeNet,
        *,
        bounds: Bounds | None = None,
        pose_blob: str | None = None,
        parity: ParityRecord | None = None,
        sources: Sequence[str | Path | Mapping[str, str]] = (),
    ) -> None:
        if net.graph.state.phase != "TEST":
            raise UsageError(f"a pose machine runs a net of phase TEST; this one is of phase {net.graph.state.phase}")
        super().__init__(net.message.name or "this model", bounds)
        self.net = net
        self._parity: ParityRecord | None = None
        self._verified_weights = ""
        self.parity = parity
        self.pose_blob = ends.pose_blob(net) if pose_blob is None else pose_blob
        self.named_blob = pose_blob
        self._sources = tuple(sources)
        state = net.state_dict()
        has_projector = all(f"{name}.weight" in state for name in LAYERS)
        self._projector = Projector.from_state(state) if has_projector else None
        self._change_blob = "change" if has_projector else None
        self._wanted = [b for b in (self.pose_blob, self._change_blob) if b is not None]
        self._needed = layers_for(net, self._wanted)
        self._input_shapes = input_shapes(net, self._needed)
        self._images, self._clip = ends.image_and_clip(net, self._needed, self._input_shapes)
        self.window = WINDOW
        self._told_of_window = False
        self.optimized = False
        self._halves = Halves(net, self._needed, self._images, self._wanted)
        self.values = ends.pose_values(net, self.pose_blob)
        self._fresh = True

    # Where it comes from and goes to

    @classmethod
    def from_caffe(
        cls,
        prototxt: str | os.PathLike[str],
        caffemodel: str | os.PathLike[str],
        *,
        bounds: Bounds | None = None,
        pose_blob: str | None = None,
        dialect: str | None = None,
    ) -> PoseMachine:
        """From a definition and its weights. It is unverified until :meth:`verify`.

        Raises:
            WeightsError: the file has no weights for a layer that the pose, its correction or its projection needs.
            CaffeCompatError: one of its kinds, naming the file, layer and blob at fault.

        Warns:
            CaffeCompatWarning: layers without weights that do not matter here, weights without a layer.
        """
        definition = read_definition(os.fspath(prototxt), dialect, filled_from=caffemodel)
        return cls.from_definition(definition, caffemodel, bounds=bounds, pose_blob=pose_blob)

    @classmethod
    def from_definition(
        cls,
        definition: Definition,
        caffemodel: str | os.PathLike[str],
        *,
        bounds: Bounds | None = None,
        pose_blob: str | None = None,
    ) -> PoseMachine:
        """As :meth:`from_caffe`, with a definition such as :func:`hpm.networks.define` gives."""
        weights = os.fspath(caffemodel)
        net, report = build_net(
            definition, weights, state=NetState("TEST"), fill_missing=True, files=FileAccess(None), seed=0
        )
        file = [definition.path] if Path(definition.path).exists() else []
        machine = cls(net, bounds=bounds, pose_blob=pose_blob, sources=[*file, weights])
        needed = {node.name for node in machine._needed} | (set(LAYERS) if machine._projector is not None else set())
        if lacking := [name for name in report.initial if name in needed]:
            raise WeightsError(f"no weights for {', '.join(lacking)}, which the pose depends on", path=weights)
        for text in (*definition.warnings, *net.warnings, *report.warnings):
            warnings.warn(text, CaffeCompatWarning, stacklevel=3)
        return machine

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, bounds: Bounds | None = None, pose_blob: str | None = None
    ) -> PoseMachine:
        """From a ``.pt`` of :meth:`save`, ``hpm convert`` or ``caffe-compat convert``, with its record and bounds.

        Args:
            bounds: for a ``.pt`` that holds none.

        Raises:
            UsageError: a ``.pt`` in inference form, which cannot be checked or saved; or bounds that differ from its
                own. FileError: see the reader.
        """
        name = os.fspath(path)
        content = read_checkpoint(name)
        if content.optimized:
            raise UsageError(f"{name} was converted with --optimize; convert it without")
        own = stored_bounds(content, name)
        check_agreement(name, own, bounds)
        return cls(
            load_checkpoint(name),
            bounds=own if own is not None else bounds,
            pose_blob=stored_pose_blob(content) if pose_blob is None else pose_blob,
            parity=parity_of(content),
            sources=content.sources,
        )

    @property
    def parity(self) -> ParityRecord | None:
        """The record that these weights reproduced their reference; None once they are changed."""
        if self._parity is not None and self.fingerprint() != self._verified_weights:
            return None
        return self._parity

    @parity.setter
    def parity(self, record: ParityRecord | None) -> None:
        self._parity = record
        self._verified_weights = "" if record is None else self.fingerprint()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``.pt`` with parity record and bounds, if there are. On a GPU, recurrent state is forgotten.

        Raises:
            FileError: it cannot be written, or a file that the model came from is gone.
        """
        device = self.device
        if device.type != "cpu":
            self.to("cpu")
        try:
            save_checkpoint(
                self.net,
                os.fspath(path),
                sources=self._sources,
                preprocess=Preprocess("bgr", (MEAN,), None, SCALE, self.image_size).to_record(),
                parity=self.parity,
                extra=extra_entries(self._bounds, self.named_blob),
            )
        finally:
            if device.type != "cpu":
                self.to(device)

    def to(self, device: torch.device | str) -> PoseMachine:
        """Move to ``device``; recurrent state is forgotten."""
        self.net.to(device)
        self._halves = Halves(self.net, self._needed, self._images, self._wanted, optimized=self.optimized)
        if self._projector is not None:
            self._projector = Projector.from_state(self.net.state_dict())
        self.reset_state()
        return self

    def optimize(self) -> PoseMachine:
        """Run the convolutions in their inference form, with the weights of now: on a CPU in about half the time.

        Poses differ by rounding from those of :attr:`net`, which is what :meth:`verify` compares. Recurrent state is
        forgotten. See :meth:`caffe_compat.CaffeNet.optimize`.
        """
        self.optimized = True
        return self.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.net.device_and_dtype()[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that frames are resized to."""
        height, width = self._input_shapes[self._images][2:]
        return height, width

    @property
    def has_correction(self) -> bool:
        """Whether the network has a correction module and a projector."""
        return self._projector is not None

    @property
    def projector(self) -> Projector:
        """The correction module's and projector's weights. Raises UsageError of a network without them."""
        if self._projector is None:
            raise UsageError(f"{self.name} has no correction module and projector ({', '.join(LAYERS)})")
        return self._projector

    # Copies and pickles: what was given and what was seen; the rest is made of that.

    def __getstate__(self) -> dict[str, object]:
        return {
            "net": self.net,
            "bounds": self._bounds,
            "pose_blob": self.named_blob,
            "sources": self._sources,
            "parity": (self._parity, self._verified_weights),
            "optimized": self.optimized,
            "window": (self.window, self._told_of_window),
            "seen": (self._told, self.memory()),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        PoseMachine.__init__(self, state["net"], **{name: state[name] for name in ("bounds", "pose_blob", "sources")})
        self._parity, self._verified_weights = state["parity"]
        self.window, self._told_of_window = state["window"]
        if state["optimized"]:
            self.optimize()
        self._told, memory = state["seen"]
        self.recall(memory)

    # Coarse poses

    def tell_of_window(self, window: int) -> None:
        """Warn, once, of a window that the model did not learn with."""
        if window != self.window and not self._told_of_window:
            self._told_of_window = True
            warnings.warn(
                f"windows of {window} frames: {self.name} is taken to have learned with windows of {self.window}, and "
                "its poses depend on that; if it learned with others, say so (machine.window = ...)",
                CaffeCompatWarning,
                stacklevel=3,
            )

    def reset_state(self) -> None:
        """Forget the frames so far, as at the start of a video or an action."""
        self._halves.rest.reset_state()
        self._fresh = True

    def memory(self) -> dict[str, Tensor]:
        """What it remembers of the frames so far: a copy for :meth:`recall`."""
        return {**self._halves.memory(), "fresh": torch.tensor(self._fresh)}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from where :meth:`memory` was asked for, in this machine or another one with its network."""
        self._fresh = bool(memory["fresh"])
        self._halves.recall({name: value for name, value in memory.items() if name != "fresh"})

    def predict(
        self,
        frames: Array | Sequence[np.ndarray],
        clip: Array | Sequence[int] | None = None,
        window: int = 5,
        *,
        pixels: Literal["bgr", "preprocessed"] = "bgr",
    ) -> Prediction[Any]:
        """Run the network over consecutive frames; the recurrent state goes on from the call before.

        Args:
            frames: ``"bgr"``: uint8 (n, height, width, 3), or n such pictures of any sizes, blue first as OpenCV reads
                them, resized to :attr:`image_size`. ``"preprocessed"``: float (n, 3, height, width), (v - 128) / 256.
                Poses are tensors if these are, or the first of a sequence is.
            clip: (n,) 0 where a sequence starts, else 1; None for one sequence since :meth:`reset_state`.
            window: frames that the network sees together, the batch of the original. Results depend on it: the second
                LSTM runs from a window's end to its start. The last one may be shorter. Of frames that come in several
                calls, every call but the last should have a multiple of it.

        Raises:
            UsageError: frames or clip values of another form, or a window of no frames.
        """
        if window < 1:
            raise UsageError(f"window {window}; 1 frame or more was expected")
        count = len(frames)
        starts = clip_values(clip, count, fresh=self._fresh)
        as_tensor = isinstance(frames[0] if count else frames, Tensor)
        parts: list[dict[str, Tensor]] = []
        at_once = self._halves.frames_at_once(window)
        with ieee_float32():
            for k in range(0, count, at_once):
                seen = self._halves.per_frame(network_input(frames[k : k + at_once], pixels, self.image_size))
                for j in range(k, min(k + at_once, count), window):
                    given = {name: values[j - k : j - k + window] for name, values in seen.items()}
                    if self._clip is not None:
                        part = starts[j : j + window]
                        given[self._clip] = np.zeros((len(part), self._input_shapes[self._clip][1]), np.float32)
                        # In a label the clip value comes last, after 2D and 3D poses that no pose depends on.
                        given[self._clip][:, -1] = part
                    parts.append(self._halves.rest.run(given, self._wanted))
                    self._fresh = False
        device = self.device

        def joined(blob: str, width: int) -> Any:
            rows = [part[blob].reshape(-1, width).float() for part in parts] or [torch.zeros(0, width, device=device)]
            values = torch.cat(rows)
            return values if as_tensor else values.cpu().numpy()

        change = None if self._change_blob is None else joined(self._change_blob, POSE_3D)
        return Prediction(joined(self.pose_blob, self.values), change)

    def coarse(
        self,
        frames: Array | Sequence[np.ndarray],
        clip: Array | Sequence[int] | None = None,
        window: int = 5,
        *,
        pixels: Literal["bgr", "preprocessed"] = "bgr",
        unit: Unit = "normalised",
    ) -> Any:
        """Coarse 3D poses (n, 16, 3) of consecutive frames; see :meth:`predict`. Raises UsageError of a 2D network.

        Warns:
            CaffeCompatWarning: once, if the window is not that which the model learned with.
        """
        if self.values != POSE_3D:
            raise UsageError(f"{self.name} gives 2D poses; ask for them with pose2d()")
        prediction = self.predict(frames, clip, window, pixels=pixels)
        self.tell_of_window(window)
        return self.in_unit(prediction.pose, unit)

    def pose2d(
        self,
        frames: Array | Sequence[np.ndarray],
        clip: Array | Sequence[int] | None = None,
        window: int = 5,
        *,
        pixels: Literal["bgr", "preprocessed"] = "bgr",
    ) -> Any:
        """2D poses (n, 16, 2), fractions of the frame's side, of a 2D network. Raises UsageError of a 3D one."""
        if self.values != POSE_2D:
            raise UsageError(f"{self.name} gives 3D poses; ask for them with coarse()")
        return self.predict(frames, clip, window, pixels=pixels).pose.reshape(-1, len(H36M16), 2)

    # Projection and refinement

    def project(self, pose: Array) -> Any:
        """2D poses (n, 16, 2), fractions of the crop's side, of normalised 3D poses (n, 48) or (n, 16, 3)."""
        rows = torch.as_tensor(pose) if isinstance(pose, Tensor) else torch.from_numpy(np.asarray(pose, np.float32))
        if rows.dim() < 2 or rows[0].numel() != POSE_3D:
            raise UsageError(
                f"normalised 3D poses (n, 16, 3) or (n, {POSE_3D}) were expected, found {tuple(rows.shape)}"
            )
        weight = self.projector.project_1.weight
        with torch.no_grad():
            flat = rows.reshape(-1, POSE_3D).to(weight.device, weight.dtype)
            projected = project(self.projector, flat).reshape(-1, len(H36M16), 2)
        return projected if isinstance(pose, Tensor) else projected.cpu().numpy()

    def refiner(
        self,
        settings: RefineSettings = ORIGINAL,
        *,
        dtype: torch.dtype = torch.float32,
        allow_unverified: bool = False,
    ) -> Refiner:
        """What refines with these weights, block by block.

        Raises:
            ParityError: the model has no parity record, and ``allow_unverified`` is not given.
            UsageError: a network without correction module and projector.
        """
        projector = self.projector
        require_parity(self.parity, self.name, allow_unverified=allow_unverified)
        return Refiner(projector, settings, bounds=self.bounds, device=self.device, dtype=dtype)

    def refine(
        self,
        coarse: Array,
        pose2d: Array,
        settings: RefineSettings = ORIGINAL,
        *,
        unit: Unit = "normalised",
        allow_unverified: bool = False,
    ) -> Any:
        """Refined 3D poses (n, 16, 3) of one sequence, whole; :meth:`refiner` takes one in blocks and tells more.

        Args:
            coarse: (n, 16, 3) or (n, 48), normalised. pose2d: (n, 16, 2) or (n, 32), fractions of the crop's side.
            unit: of what comes out.

        Raises:
            ParityError, UsageError: as :meth:`refiner`, and poses that do not fit each other or are not finite.
        """
        refined = self.refiner(settings, allow_unverified=allow_unverified).refine(coarse, pose2d)
        return self.in_unit(refined.pose, unit)

    # Parity

    def verify(
        self,
        reference: str | os.PathLike[str],
        group: str = "",
        inputs: Mapping[str, np.ndarray] | None = None,
    ) -> list[CaseResult]:
        """Compare with recorded outputs of real Caffe; if all agree, :attr:`parity` holds the record, else None.

        Args:
            group: the reference's part of the file, which may be left out if there is one. inputs: those that the file
                does not hold whole.

        Raises:
            UsageError: the reference does not hold the pose and, of a network with a correction module, ``change`` and
                ``project_2d``: it would prove too little. FileError: see the readers.
        """
        where = os.fspath(reference)
        report = verify_net(self.net, f"{where}:{group}" if group else where, inputs=inputs)
        compared = {blob.name for blob in report.blobs}
        needed = {self.pose_blob} | ({"change", "project_2d"} if self._projector is not None else set())
        if missing := sorted(needed - compared):
            raise UsageError(
                f"{os.fspath(reference)} holds no {', '.join(missing)}, so it cannot show that the poses agree"
            )
        self.parity = report.record() if report.ok else None
        return list(report.results)

    def fingerprint(self) -> str:
        """Of all tensors by name and value, to see a change of any, or that two machines have the same."""
        return fingerprint(self.net.state_dict())
