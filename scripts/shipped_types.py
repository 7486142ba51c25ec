"""Write ``caffe_compat/network/shipped_types.py``: which module of the layers that ship registers which types.

Run it after a layer type came or moved: ``python scripts/shipped_types.py``. A test says when it is due.
"""

from __future__ import annotations

from pathlib import Path

from caffe_compat.network.python_registry import python_types
from caffe_compat.network.registry import registered_types
from caffe_compat.network.shipped import LAYERS

TARGET = Path(__file__).parent.parent / "caffe_compat" / "network" / "shipped_types.py"

HEADER = '''"""Which module registers which layer types; ``scripts/shipped_types.py`` writes this file."""

from __future__ import annotations
'''


def text() -> str:
    """What the file has to say of the modules as they are."""
    types: dict[str, set[str]] = {}
    for entry in registered_types():
        module = entry.build.__module__
        if module.startswith(f"{LAYERS}."):
            types.setdefault(module.removeprefix(f"{LAYERS}."), set()).add(entry.name)
    made_by = [entry.build or entry.shapes for entry in python_types()]
    homes = {made.__module__ for made in made_by if made is not None}
    classes = sorted(home.removeprefix(f"{LAYERS}.") for home in homes if home.startswith(f"{LAYERS}."))
    rows = "".join(f"    {module!r}: {tuple(sorted(names))!r},\n" for module, names in sorted(types.items()))
    table = f"# By module of ``caffe_compat.layers``.\nSHIPPED_TYPES: dict[str, tuple[str, ...]] = {{\n{rows}}}\n"
    built_in = (
        f"# The modules with classes of ``Python`` layers.\nPYTHON_CLASSES: tuple[str, ...] = {tuple(classes)!r}\n"
    )
    return f"{HEADER}\n{table}\n{built_in}".replace("'", '"')


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
