"""2D detectors: frames in; people out, with boxes and named keypoints with confidences.

| detector | what runs | what it needs |
|---|---|---|
| :class:`.mediapipe.MediaPipe` | MediaPipe's two networks | two ``.tflite`` files, ai-edge-litert |
| :class:`.rtmpose.RTMPose` | RTMDet and RTMPose | two ``.onnx`` files, onnxruntime |
| :class:`.adapters.Torchvision` | a keypoint network of torchvision's | that network, loaded |
| :class:`.adapters.Rtmlib` | a body model of rtmlib's | that model, loaded |

Anything else with :attr:`.protocol.Detector.joints` and :meth:`.protocol.Detector.people` will do as well.
"""

from .adapters import Rtmlib, Torchvision
from .following import detect
from .mediapipe import MediaPipe
from .opening import KINDS, open_detector
from .protocol import Detector
from .rtmpose import RTMPose

__all__ = ["KINDS", "Detector", "MediaPipe", "RTMPose", "Rtmlib", "Torchvision", "detect", "open_detector"]
