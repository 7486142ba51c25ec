"""A conversion as one HTML page: the network as a picture to pan and search, and all there is to say about its layers.

It needs no network and opens from disk. Its content security policy forbids everything but the style and the script of
this package, known by their hashes: names and texts are data and cannot become code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from ..conversion import Conversion
from ..display import shown
from ..formats.files import atomic_write
from ..network.graph import Graph, Node
from ..parity.compare import BlobResult
from ..parity.record import versions
from ..parity.report import Report
from .drawing import Box, draw
from .network import LayerRow, layer_rows

__all__ = ["page_html", "save_page"]


def save_page(conversion: Conversion, path: str | os.PathLike[str], report: Report | None = None) -> None:
    """Write the page of :func:`page_html` to ``path``, whole or not at all. Raises FileError."""
    page = page_html(conversion, report)
    with atomic_write(path) as file:
        file.write(page.encode("utf-8", "replace"))


def page_html(conversion: Conversion, report: Report | None = None) -> str:
    """The page as text.

    Args:
        report: a comparison in which something departed; by default that of the conversion, if there was one.
    """
    report = conversion.report if report is None else report
    name = shown(conversion.net.message.name or Path(conversion.definition.path).name)
    style, script = _resource("report_page.css"), _resource("report_page.js")
    parts = {
        "title": html.escape(name),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "data": _json(_data(conversion, report, name)),
    }
    # One pass: what is put in is not searched for further places.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _resource("report_page.html"))


def _data(conversion: Conversion, report: Report | None, name: str) -> dict[str, object]:
    """What the script reads; every text in it is safe to show."""
    net = conversion.net
    rows = layer_rows(net)
    parity = _parity(net.graph, report)
    stacks = _stacks(net.graph)
    drawing = draw([Box(len(stack), above) for stack, above in stacks])
    return {
        "name": name,
        "facts": _facts(conversion, report, rows),
        "lists": _lists(conversion),
        "layers": [_layer(row, parity.get(node.index)) for row, node in zip(rows, net.graph.nodes, strict=True)],
        "compared": report is not None,
        "stacks": [stack for stack, _ in stacks],
        "boxes": drawing.boxes,
        "edges": drawing.edges,
        "size": (drawing.width, drawing.height),
    }


def _stacks(graph: Graph) -> list[tuple[list[int], tuple[int, ...]]]:
    """Layers that are drawn as one box (one, and those that overwrite its top in place), and the boxes above it."""
    stacks: list[tuple[list[int], list[int]]] = []
    of_value: dict[int, int] = {}  # value -> the box that makes it
    for i, node in enumerate(graph.nodes):
        above = [of_value[v] for v in node.bottoms]
        in_place = len(node.bottoms) == 1 and [graph.blobs[v] for v in node.tops] == [graph.blobs[node.bottoms[0]]]
        if in_place:
            stack = above[0]
            stacks[stack][0].append(i)
        else:
            stack = len(stacks)
            stacks.append(([i], above))
        of_value.update(dict.fromkeys(node.tops, stack))
    return [(stack, tuple(dict.fromkeys(above))) for stack, above in stacks]


@dataclass(frozen=True)
class _Compared:
    """How far a blob is off at most; ``rel`` and ``abs`` are None where that is no number.

    Attributes:
        first: whether it is the first that departs.
    """

    blob: str
    abs: float | None
    rel: float | None
    passed: bool
    problem: str
    first: bool

    @classmethod
    def of(cls, blob: BlobResult, first: BlobResult | None) -> _Compared:
        return cls(
            shown(blob.name),
            _finite(blob.max_abs),
            _finite(blob.max_rel),
            blob.passed,
            shown(blob.problem),
            blob is first,
        )

    @property
    def badness(self) -> tuple[bool, bool, bool, float]:
        """What is worse is greater."""
        return (self.first, not self.passed, self.rel is None, self.rel or 0.0)


def _layer(row: LayerRow, compared: _Compared | None) -> dict[str, object]:
    return {
        "name": shown(row.name),
        "type": shown(row.type),
        "bottoms": [shown(blob) for blob in row.bottoms],
        "tops": [
            [shown(blob), None if shape is None else list(shape)]
            for blob, shape in zip(row.tops, row.shapes, strict=True)
        ],
        "blobs": [list(shape) for shape in row.blobs or ()],
        "parameters": row.parameters,
        "macs": row.macs,
        "parity": None if compared is None else asdict(compared),
    }


def _parity(graph: Graph, report: Report | None) -> dict[int, _Compared]:
    """By the index of the layer that a compared blob has its last value from: the worst of its comparisons."""
    if report is None:
        return {}
    maker: dict[str, Node] = {graph.blobs[v]: node for node in graph.nodes for v in node.tops}
    found: dict[int, _Compared] = {}
    for blob in report.blobs:
        if (node := maker.get(blob.name)) is not None:
            made = _Compared.of(blob, report.first_departing)
            there = found.get(node.index, made)
            found[node.index] = max(there, made, key=lambda compared: compared.badness)
    return found


def _facts(conversion: Conversion, report: Report | None, rows: Sequence[LayerRow]) -> list[tuple[str, str]]:
    """What stands above: each fact with its name."""
    net, definition = conversion.net, conversion.definition
    tensors = {id(t): t.numel() for t in net.state_dict().values()}
    shapes = {net.graph.blobs[v]: shape for v, shape in enumerate(net.shapes)}
    facts = [
        ("compared with real Caffe", _verdict(report)),
        ("dialect", f"{definition.schema.name} ({definition.dialect_reason})"),
        ("phase", str(net.graph.state)),
        ("inputs", _named_shapes({name: net.input_shapes[name] for name in net.input_names})),
        ("outputs", _named_shapes({name: shapes[name] for name in net.output_names})),
        ("layers", f"{len(rows):,}"),
        ("parameters", f"{sum(tensors.values()):,}"),
        ("multiply-accumulates", f"{sum(row.macs or 0 for row in rows):,}"),
        *(("source", f"{Path(source.path).name}, SHA-256 {source.hexdigest()}") for source in conversion.sources),
    ]
    if conversion.preprocess is not None:
        facts.append(("preprocessing", json.dumps(conversion.preprocess.to_record())))
    facts.append(("versions", versions()))
    return [(name, shown(text)) for name, text in facts]


def _verdict(report: Report | None) -> str:
    if report is None:
        return "no: no recorded outputs were given"
    at = f"{Path(report.reference).name}{f':{report.group}' if report.group else ''}, on {report.device}"
    first = report.first_departing
    if first is not None:
        return f"DEPARTS at {first.name}, the first of {len(report.blobs)} blobs that does ({at})"
    if not report.ok:
        return f"FAILED: {report.summary()} ({at})"
    worst = report.worst
    off = f"; worst relative error {worst.max_rel:.1e} ({worst.name})" if worst else ""
    return f"equal in {len(report.blobs)} blobs{off} ({at})"


def _lists(conversion: Conversion) -> list[tuple[str, list[str]]]:
    """Lines under headings, the most telling first; headings without lines are left out."""
    net = conversion.net
    found = [
        ("Warnings", list(conversion.warnings)),
        ("Accepted: fields without a meaning here", [str(ignored) for ignored in net.ignored if ignored.accepted]),
        ("Accepted: layers without weights in the file", [f"layer {name!r}" for name in net.unfilled]),
        ("Notes", list(conversion.notes)),
        ("Fields that change no numbers", [str(ignored) for ignored in net.ignored if not ignored.accepted]),
    ]
    return [(heading, [shown(line) for line in lines]) for heading, lines in found if lines]


def _named_shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "none"


def _finite(value: float) -> float | None:
    """JSON has no infinity, and no number that is none."""
    return value if math.isfinite(value) else None


def _json(value: object) -> str:
    """JSON that is also safe inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return (files("caffe_compat") / "resources" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
