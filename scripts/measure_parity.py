"""Measure our numbers against the stored outputs of real Caffe and write the tables into the two READMEs.

.venv/bin/python scripts/measure_parity.py
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import caffe_compat
from caffe_compat import layers as _layers  # noqa: F401  registers what ships
from caffe_compat.parity import CaseResult, open_reference, run_cases, verify_net
from caffe_compat.registry import find_layer, layer_types
from caffe_compat.schema import load_schema

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "reference_outputs"
CASE_FILES = {"bvlc_layers.h5": "BVLC Caffe 1.0.0", "ssl3d_layers.h5": "3Dpose_ssl"}


@dataclass
class Measured:
    """Worst relative errors of one layer type. ``cases`` counts those with this type."""

    origin: str = ""
    cases: int = 0
    forward: float = 0.0
    backward: float | None = None
    files: bool = False
    failed: list[str] = field(default_factory=list)


def measure_layers() -> dict[str, Measured]:
    """Run every stored case, forward and backward."""
    measured: dict[str, Measured] = defaultdict(Measured)
    for name, origin in CASE_FILES.items():
        for result in run_cases(REFERENCE / name):
            entry = measured[result.name.partition(".")[0]]
            entry.origin = origin
            entry.cases += 1
            if not result.passed:
                entry.failed.append(result.name)
            for blob in result.blobs:
                if blob.name.startswith(("bottom_diff/", "param_diff/")):
                    entry.backward = max(entry.backward or 0.0, blob.max_rel)
                else:
                    entry.files |= blob.name.startswith("file:")
                    entry.forward = max(entry.forward, blob.max_rel)
    return dict(measured)


def layer_table(measured: dict[str, Measured]) -> list[str]:
    """One row per registered layer type; those that only forks have, and that no case covers, in a list below."""
    lines = ["| layer type | cases from | cases | forward | gradients |", "|---|---|---:|---:|---:|"]
    unchecked = [name for name in layer_types() if name not in measured and not _is_checked(name)]
    for name in layer_types():
        entry = measured.get(name)
        if entry is None:
            if name not in unchecked:
                lines.append(f"| {name} | none stored | | | |")
            continue
        forward = f"{entry.forward:.1e}" + (" and its files, byte for byte" if entry.files else "")
        backward = f"{entry.backward:.1e}" if entry.backward is not None else ""
        state = f" (FAILED: {', '.join(entry.failed)})" if entry.failed else ""
        lines.append(f"| {name} | {entry.origin} | {entry.cases} | {forward}{state} | {backward} |")
    below = f"Built from the sources of forks, never compared with what these compute ({len(unchecked)}): "
    return [*lines, "", *textwrap.wrap(f"{below}{', '.join(unchecked)}.", 132, break_on_hyphens=False)]


def _is_checked(name: str) -> bool:
    """Whether the type counts as verified under any dialect; the registry keeps that flag."""
    return any(find_layer(name, dialect).verified for dialect in ("bvlc", "chanyn/3Dpose_ssl") if _knows(name, dialect))


def _knows(name: str, dialect: str) -> bool:
    return name in load_schema(dialect).layer_types


def measure_networks() -> list[str]:
    """One row per whole network that ships."""
    rows = []
    tiny, formats = REFERENCE / "tiny_mask3d", REFERENCE / "formats"
    models = [
        (
            "tiny_mask3d, two batches with carried state",
            tiny / "deploy.prototxt",
            tiny / f"tiny_mask3d.caffemodel{h5}",
            tiny / "tiny_mask3d.h5",
            "",
        )
        for h5 in ("", ".h5")
    ] + [
        (
            f"{name}: {weights}",
            formats / f"{name}.prototxt",
            formats / f"{name}{weights}",
            REFERENCE / "formats.h5",
            name,
        )
        for name in ("v0net", "v1net")
        for weights in (".caffemodel", ".caffemodel.h5", ".upgraded.caffemodel")
    ]
    for title, prototxt, weights, path, group in models:
        net = caffe_compat.load(prototxt, weights)
        with open_reference(path) as file:
            rows.append(_network_row(f"{title} ({weights.name})", verify_net(net, file[group] if group else file)))
    return ["| network | blobs compared | worst relative error | in blob |", "|---|---:|---:|---|", *rows]


def _network_row(title: str, results: list[CaseResult]) -> str:
    blobs = [blob for result in results for blob in result.blobs]
    worst = max(blobs, key=lambda blob: blob.max_rel)
    failed = "" if all(result.passed for result in results) else " FAILED"
    return f"| {title}{failed} | {len(blobs)} | {worst.max_rel:.1e} | {worst.name} |"


def write_between(path: Path, marker: str, lines: list[str]) -> None:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->``."""
    text = path.read_text(encoding="utf-8")
    head, start, rest = text.partition(f"<!-- {marker} -->\n")
    _, end, tail = rest.partition(f"<!-- /{marker} -->")
    if not start or not end:
        raise SystemExit(f"{path} has no place marked {marker}")
    path.write_text(head + start + "\n".join(lines) + "\n" + end + tail, encoding="utf-8")


def main() -> None:
    measured = measure_layers()
    write_between(ROOT / "README.md", "layers", layer_table(measured))
    write_between(REFERENCE / "README.md", "networks", measure_networks())
    cases = sum(entry.cases for entry in measured.values())
    failed = [name for entry in measured.values() for name in entry.failed]
    print(f"{cases - len(failed)} of {cases} cases passed{': ' + ', '.join(failed) if failed else ''}")


if __name__ == "__main__":
    main()
