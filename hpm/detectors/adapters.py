"""Detectors of other packages, which bring their networks along: torchvision's and rtmlib's.

import torchvision
weights = torchvision.models.detection.KeypointRCNN_ResNet50_FPN_Weights.DEFAULT
detector = Torchvision(torchvision.models.detection.keypointrcnn_resnet50_fpn(weights=weights))
hpm.predict("walk.mp4", "pose.pt", "out", detector=detector)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from caffe_compat.errors import UsageError

from ..joint_orders import COCO17, Skeleton
from ..people import Person

__all__ = ["Rtmlib", "Torchvision"]


class Torchvision:
    """A keypoint network of torchvision's, such as ``keypointrcnn_resnet50_fpn``.

    Such networks give each joint a score without bounds; its confidence is the sigmoid of that. Nothing here imports
    torchvision: what is called is the network, with one tensor (3, height, width), red first, 0 to 1.

    Args:
        network: called in evaluation mode, where it is.
        least: the score from which a detection counts as a person.

    Example:
        >>> detector = Torchvision(keypointrcnn_resnet50_fpn(weights="DEFAULT"))
        >>> len(detector.people(picture)[0].points)
        17
    """

    joints = COCO17

    def __init__(self, network: torch.nn.Module, least: float = 0.7) -> None:
        self._network, self._least = network.eval(), least

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        """See :class:`.protocol.Detector`. Raises UsageError if the network gives something else."""
        device = next((each.device for each in self._network.parameters()), torch.device("cpu"))
        pixels = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1])).permute(2, 0, 1).to(device).float() / 255
        with torch.no_grad():
            (found,) = self._network([pixels])
        if lacking := {"boxes", "scores", "keypoints", "keypoints_scores"} - found.keys():
            raise UsageError(f"the network gives no {', '.join(sorted(lacking))}; a keypoint network was expected")
        boxes, scores, points, sure = (
            found[name].double().cpu().numpy() for name in ("boxes", "scores", "keypoints", "keypoints_scores")
        )
        return [
            Person(
                points[k, :, :2],
                1 / (1 + np.exp(-sure[k])),
                np.concatenate([boxes[k, :2], boxes[k, 2:] - boxes[k, :2]]),
            )
            for k in np.flatnonzero(scores >= self._least)
        ]


class Rtmlib:
    """A body model of rtmlib's, such as ``rtmlib.Body()``, ``BodyWithFeet()`` or ``Wholebody()``.

    What is called is the model, with one picture; it gives points (people, joints, 2) and scores (people, joints).

    Args:
        model: of ``to_openpose=False``, as is its default.
        joints: what it finds: COCO17 of ``Body``, HALPE26 of ``BodyWithFeet``, COCO133 of ``Wholebody``.

    Example:
        >>> detector = Rtmlib(rtmlib.BodyWithFeet(), HALPE26)
        >>> len(detector.people(picture)[0].points)
        26
    """

    def __init__(self, model: Callable[[np.ndarray], Any], joints: Skeleton = COCO17) -> None:
        self._model, self.joints = model, joints

    def people(self, picture: np.ndarray, before: Sequence[Person] = ()) -> list[Person]:
        """See :class:`.protocol.Detector`."""
        points, scores = self._model(picture)
        return [
            Person(np.asarray(each, np.float64), np.asarray(sure, np.float64).clip(min=0))
            for each, sure in zip(points, scores, strict=True)
        ]
