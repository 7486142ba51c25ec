"""glTF 2.0 motions in one file (.glb): a stick figure that moves exactly as the poses do, in metres, y up.

A node for every joint hangs from its parent's, with the name of the joint, and moves by its place relative to it. In
each parent's node lies a node for the bone to the child, a mesh one metre long that is turned and scaled to it.
Khronos, glTF 2.0 specification; a body that faces the camera looks along z, as glTF has it.
"""

from __future__ import annotations

import json
import struct

import numpy as np

from ..joint_orders import Skeleton
from ..skeleton import H36M16

__all__ = ["to_glb"]

Entry = dict[str, object]
"""An object of the file's JSON."""

_FLOAT, _UNSIGNED_SHORT = 5126, 5123
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_COLOURS = {"L": (0.0, 0.17, 0.45, 1.0), "R": (0.66, 0.11, 0.0, 1.0), "": (0.08, 0.08, 0.08, 1.0)}
# A spindle along y, from 0 to 1: its tips, and a square at a fifth of its length.
_SPINDLE = np.array([[0, 0, 0], [1, 0.2, 0], [0, 0.2, 1], [-1, 0.2, 0], [0, 0.2, -1], [0, 1, 0]], np.float32)
_FACES = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [5, 2, 1], [5, 3, 2], [5, 4, 3], [5, 1, 4]], np.uint16)
_THICKNESS = 0.03  # half of the square's diagonal, metres


class _Buffer:
    """Arrays one after the other, with the views and accessors that describe them."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[Entry] = []
        self.accessors: list[Entry] = []

    def add(self, values: np.ndarray, kind: str, component: int, target: int | None = None) -> int:
        """The number of the accessor of an array of rows (SCALAR, VEC3 or VEC4)."""
        raw = np.ascontiguousarray(values).tobytes()
        view: Entry = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw)}
        if target is not None:
            view["target"] = target
        self.views.append(view)
        self.data += raw + b"\0" * (-len(raw) % 4)
        rows = values.reshape(len(values), -1)
        self.accessors.append(
            {
                "bufferView": len(self.views) - 1,
                "componentType": component,
                "count": len(values),
                "type": kind,
                "min": rows.min(0).tolist(),
                "max": rows.max(0).tolist(),
            }
        )
        return len(self.accessors) - 1


def to_glb(pose_mm: np.ndarray, times: np.ndarray, joints: Skeleton = H36M16) -> bytes:
    """The file.

    Args:
        pose_mm: (n, joints, 3), finite, in a camera's axes: x right, y down, z away from it.
        times: (n,) seconds, rising.
    """
    points = (np.asarray(pose_mm, np.float64) * [1, -1, -1] / 1000).astype(np.float64)
    buffer, nodes, channels, samplers = (
        _Buffer(),
        list[Entry](),
        list[Entry](),
        list[Entry](),
    )
    clock = buffer.add(np.asarray(times, np.float32), "SCALAR", _FLOAT)

    def moves(node: int, path: str, values: np.ndarray, kind: str) -> None:
        output = buffer.add(values.astype(np.float32), kind, _FLOAT)
        samplers.append({"input": clock, "output": output, "interpolation": "LINEAR"})
        channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": path}})

    below: list[list[int]] = [[] for _ in joints.joints]
    for k, name in enumerate(joints.joints):
        parent = joints.parents[k]
        place = points[:, k] - (0 if parent == k else points[:, parent])
        nodes.append({"name": name, "translation": place[0].tolist()})
        moves(k, "translation", place, "VEC3")
    for child, parent in joints.bones:
        along = points[:, child] - points[:, parent]
        length = np.linalg.norm(along, axis=1)
        thin = np.full(len(length), _THICKNESS)
        size, turn = np.stack([thin, np.maximum(length, 1e-6), thin], 1), _turns(along)
        side = joints.joints[child][0] if joints.swaps[child] != child else ""
        nodes.append(
            {
                "name": f"{joints.joints[parent]}_{joints.joints[child]}",
                "mesh": list(_COLOURS).index(side),
                "rotation": turn[0].tolist(),
                "scale": size[0].tolist(),
            }
        )
        below[parent] += [child, len(nodes) - 1]
        moves(len(nodes) - 1, "rotation", turn, "VEC4")
        moves(len(nodes) - 1, "scale", size, "VEC3")
    for node, children in zip(nodes, below, strict=False):
        if children:
            node["children"] = children
    content: Entry = {
        "asset": {"version": "2.0", "generator": "hpm"},
        "scene": 0,
        "scenes": [{"nodes": [joints.root]}],
        "nodes": nodes,
        **_meshes(buffer),
        "animations": [{"name": "poses", "channels": channels, "samplers": samplers}],
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    return _packed(content, bytes(buffer.data))


def _meshes(buffer: _Buffer) -> Entry:
    """The spindle in each side's colour."""
    position = buffer.add(_SPINDLE, "VEC3", _FLOAT, _ARRAY_BUFFER)
    faces = buffer.add(_FACES.ravel(), "SCALAR", _UNSIGNED_SHORT, _ELEMENT_ARRAY_BUFFER)
    materials, meshes = [], []
    for k, colour in enumerate(_COLOURS.values()):
        surface = {"baseColorFactor": list(colour), "metallicFactor": 0.0, "roughnessFactor": 1.0}
        materials.append({"pbrMetallicRoughness": surface, "doubleSided": True})
        meshes.append({"primitives": [{"attributes": {"POSITION": position}, "indices": faces, "material": k}]})
    return {"materials": materials, "meshes": meshes}


def _turns(along: np.ndarray) -> np.ndarray:
    """(n, 4) quaternions x, y, z, w: the least turn of the y axis to each direction, without jumps in sign."""
    unit = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    # (y x unit, 1 + y . unit), which vanishes where unit is -y: half a turn about x.
    turn = np.stack([unit[:, 2], np.zeros(len(unit)), -unit[:, 0], 1 + unit[:, 1]], 1)
    turn[np.linalg.norm(turn, axis=1) < 1e-6] = 1, 0, 0, 0
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    for k in range(1, len(turn)):
        if turn[k] @ turn[k - 1] < 0:
            turn[k] *= -1
    return turn


def _packed(content: Entry, data: bytes) -> bytes:
    text = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
