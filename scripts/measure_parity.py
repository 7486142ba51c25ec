"""Measure our numbers against the stored outputs of real Caffe and write the tables that show them.

One is in docs/layers.md (layer types), one in reference_outputs/README.md (whole networks).

.venv/bin/python scripts/measure_parity.py
"""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import caffe_compat
from caffe_compat import layers as _layers  # noqa: F401  registers what ships
from caffe_compat.formats.hdf5 import Group, open_hdf5
from caffe_compat.network.registry import find_layer, layer_types
from caffe_compat.parity.cases import run_case
from caffe_compat.parity.compare import CaseResult
from caffe_compat.parity.reference import verify_net
from caffe_compat.schema import load_schema

ROOT = Path(__file__).parent.parent
LAYERS_PAGE = ROOT / "docs" / "layers.md"
REFERENCE = ROOT / "reference_outputs"
CASE_FILES = {"bvlc_layers.h5": "BVLC Caffe 1.0.0", "ssl3d_layers.h5": "3Dpose_ssl"}
FORK_FILES = ("fork_layers.h5", "fork_layers_first.h5", "fork_layers_segnet_lstm.h5", "fork_layers_yolo.h5")
# Which cases of forks are refused, and which depart on purpose; tests/parity/test_fork_cases.py holds them to it.
FORK_TABLE = json.loads((ROOT / "tests" / "parity" / "fork_cases.json").read_text(encoding="utf-8"))


@dataclass
class Measured:
    """Worst relative errors of one layer type over its cases, which were recorded with the programs ``origins``.

    ``cases`` counts those that were compared, ``refused`` those that the library does not build, ``deviations`` those
    of which some arrays depart for a stated reason; these arrays count for no error.
    """

    origins: dict[str, None] = field(default_factory=dict)
    cases: int = 0
    refused: int = 0
    deviations: int = 0
    forward: float = 0.0
    backward: float | None = None
    files: bool = False
    failed: list[str] = field(default_factory=list)

    @property
    def counted(self) -> str:
        """What the table says of the number of cases: "refused" are further ones, "deviating" are among them."""
        apart = [f"{n} {word}" for n, word in ((self.refused, "refused"), (self.deviations, "deviating")) if n]
        return str(self.cases) + (f" ({', '.join(apart)})" if apart else "")

    def add(self, result: CaseResult, origin: str) -> None:
        """Count one case."""
        if result.unsupported:
            self.refused += 1
            return
        self.origins[origin] = None
        self.cases += 1
        departing = set(FORK_TABLE["deviations"].get(result.name, {}).get("arrays", ()))
        self.deviations += bool(departing)
        compared = [blob for blob in result.blobs if blob.name not in departing]
        if not all(blob.passed for blob in compared):
            self.failed.append(result.name)
        for blob in compared:
            if blob.name.startswith(("bottom_diff/", "param_diff/")):
                self.backward = max(self.backward or 0.0, blob.max_rel)
            else:
                self.files |= blob.name.startswith("file:")
                self.forward = max(self.forward, blob.max_rel)


def measure_layers() -> dict[str, Measured]:
    """Run every stored case, forward and backward."""
    measured: dict[str, Measured] = defaultdict(Measured)
    for case, group, origin in stored_cases():
        measured[type_of(case)].add(run_case(case, group, root=REFERENCE), origin)
    return dict(measured)


def stored_cases() -> Iterator[tuple[str, Group, str]]:
    """Every stored case: its name, what is stored of it, and the program that it was recorded with."""
    for name in (*CASE_FILES, *FORK_FILES):
        with open_hdf5(REFERENCE / name) as file:
            for case, group in file.items():
                yield case, group, CASE_FILES.get(name) or _fork(group.attrs["dialect"])


def type_of(case: str) -> str:
    """The layer type that a case is of, which its name begins with."""
    return case.partition(".")[0]


def _fork(dialect: str) -> str:
    """``owner/repository`` of a dialect, which may name a branch and a file, too."""
    return dialect.partition("@")[0].partition(":")[0]


def layer_table(measured: dict[str, Measured]) -> list[str]:
    """One row per registered layer type; those that only forks have, and that no case covers, in a list below."""
    lines = ["| layer type | cases from | cases | forward | gradients |", "|---|---|---:|---:|---:|"]
    compared = {name: entry for name, entry in measured.items() if entry.cases}
    unchecked = never_compared(compared)
    for name in layer_types():
        entry = compared.get(name)
        if entry is None:
            if name not in unchecked:
                lines.append(f"| {name} | none stored | | | |")
            continue
        forward = f"{entry.forward:.1e}" + (" and its files, byte for byte" if entry.files else "")
        backward = f"{entry.backward:.1e}" if entry.backward is not None else ""
        state = f" (FAILED: {', '.join(entry.failed)})" if entry.failed else ""
        lines.append(f"| {name} | {', '.join(entry.origins)} | {entry.counted} | {forward}{state} | {backward} |")
    below = f"Built from the sources of forks, never compared with what these compute ({len(unchecked)}): "
    return [*lines, "", *textwrap.wrap(f"{below}{', '.join(unchecked)}.", 132, break_on_hyphens=False)]


def never_compared(compared: Collection[str]) -> list[str]:
    """Registered types that are not among ``compared`` and count as verified under no dialect."""
    return [name for name in layer_types() if name not in compared and not _is_checked(name)]


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
        with open_hdf5(path) as file:
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
    write_between(LAYERS_PAGE, "layers", layer_table(measured))
    write_between(REFERENCE / "README.md", "networks", measure_networks())
    entries = measured.values()
    refused, deviating = sum(e.refused for e in entries), sum(e.deviations for e in entries)
    failed = [name for entry in entries for name in entry.failed]
    passed = sum(e.cases for e in entries) - deviating - len(failed)
    print(
        f"of the cases {passed} passed, {deviating} deviate for a stated reason, {refused} are refused, "
        f"{len(failed)} failed{': ' + ', '.join(failed) if failed else ''}"
    )


if __name__ == "__main__":
    main()
