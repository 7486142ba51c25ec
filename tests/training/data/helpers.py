"""Small helpers of the data tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from caffe_compat.network.graph import NetState, phase_graph
from caffe_compat.schema.prototxt import parse_message
from caffe_compat.training.data import Source, make_sources

OUTPUTS = Path(__file__).parents[3] / "reference_outputs"
FORK = "chanyn/3Dpose_ssl"


def sources_of(prototxt: str, root: Path, phase: str = "TEST", dialect: str | None = None, **options: Any) -> Any:
    """The sources of a net's data layers in ``phase``."""
    parsed = parse_message(prototxt, dialect=dialect)
    return make_sources(
        phase_graph(parsed.message, NetState(phase), parsed.schema.name), root=root, **{"seed": 5, **options}
    )


def source_of(prototxt: str, root: Path, phase: str = "TEST", dialect: str | None = None, **options: Any) -> Source:
    """The only source of a net."""
    (source,) = sources_of(prototxt, root, phase, dialect, **options)
    return source


def image_list(folder: Path, count: int, labels: str = "{i}", height: int = 6, width: int = 9) -> list[np.ndarray]:
    """Write ``count`` different PNGs and ``list.txt``; returns the images, (H, W, 3) BGR."""
    import cv2

    images = [np.random.RandomState(i).randint(0, 256, (height, width, 3)).astype(np.uint8) for i in range(count)]
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    (folder / "list.txt").write_text("".join(f"{i}.png {labels.format(i=i)}\n" for i in range(count)))
    return images


def image_data(
    settings: str = "", transform: str = "", kind: str = "ImageData", field: str = "image_data_param"
) -> str:
    """A net of one layer over ``list.txt``."""
    return (
        f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" transform_param {{ {transform} }} '
        f'{field} {{ source: "list.txt" {settings} }} }}'
    )
