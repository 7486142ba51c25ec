"""The page of ``convert --report``: what it says, what cannot get into it, and that a real browser shows it."""

from __future__ import annotations

import html.parser
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import caffe_compat
from caffe_compat.conversion import Conversion
from caffe_compat.errors import ParityError
from caffe_compat.network.definition import read_definition
from caffe_compat.network.filling import FillReport
from caffe_compat.network.net import CaffeNet
from caffe_compat.reports.drawing import LINE, WIDTH, Box, draw
from caffe_compat.reports.page import page_html, save_page
from tests.chromium import CHROMIUM, open_browser
from tests.network import small_networks
from tests.networks import input_layer, ip, layer


def conversion_of(text: str, folder: Path, **options: Any) -> Conversion:
    """A conversion without weights: the page tells of shapes, not of values."""
    (folder / "net.prototxt").write_text(text, encoding="utf-8")
    definition = read_definition(folder / "net.prototxt")
    return Conversion(CaffeNet(definition.message, dialect=definition.schema.name, **options), definition, FillReport())


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def tiny() -> Conversion:
    folder = Path(__file__).parents[2] / "reference_outputs" / "tiny_mask3d"
    return caffe_compat.convert(
        folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel", reference=folder / "tiny_mask3d.h5"
    )


def test_it_tells_what_the_conversion_knows(tiny: Conversion) -> None:
    data = data_of(page_html(tiny))
    facts = dict(data["facts"])
    assert facts["compared with real Caffe"].startswith("equal in 78 blobs; worst relative error ")
    assert facts["dialect"] == "chanyn/3Dpose_ssl (chanyn/3Dpose_ssl knows InvertedOrder)"
    assert facts["inputs"] == "data [4, 3, 64, 64], clip [4, 1]"
    assert "torch" in facts["versions"]
    layers = {entry["name"]: entry for entry in data["layers"]}
    assert list(layers) == [node.name for node in tiny.net.graph.nodes]
    assert layers["conv1_1"]["tops"] == [["conv1_1", [4, 8, 64, 64]]]
    assert layers["conv1_1"]["blobs"] == [[8, 3, 3, 3], [8]]
    assert (layers["conv1_1"]["parameters"], layers["conv1_1"]["macs"]) == (224, 4 * 64 * 64 * 8 * 27)
    # A blob that is overwritten in place has its value from the last layer that does.
    assert layers["conv1_1"]["parity"] is None
    assert layers["relu_conv1_1"]["parity"]["passed"] is True
    assert not any(entry["parity"] and entry["parity"]["first"] for entry in data["layers"])


def test_the_first_blob_that_departs_is_marked(tiny: Conversion) -> None:
    folder = Path(__file__).parents[2] / "reference_outputs" / "tiny_mask3d"
    wrong = caffe_compat.convert(folder / "deploy.prototxt", folder / "tiny_mask3d.caffemodel")
    with torch.no_grad():
        wrong.net.conv3_1.weight.mul_(1.1)
    with pytest.raises(ParityError) as raised:
        wrong.checked(folder / "tiny_mask3d.h5")
    data = data_of(page_html(wrong, raised.value.report))
    assert dict(data["facts"])["compared with real Caffe"].startswith("DEPARTS at conv3_1, the first of 78 blobs")
    marked = [entry["name"] for entry in data["layers"] if entry["parity"] and entry["parity"]["first"]]
    assert marked == ["relu_conv3_1"]
    after = [entry for entry in data["layers"] if entry["name"] == "conv4_1" or entry["name"] == "relu_conv4_1"]
    assert any(entry["parity"] and entry["parity"]["passed"] is False for entry in after)


def test_what_was_accepted_is_told(tmp_path: Path) -> None:
    text = input_layer("x", 2, 3) + ip("fc", "x", "y", 4, "odd_field: 3")
    conversion = conversion_of(text, tmp_path, ignore_fields=("odd_field",))
    conversion.net.unfilled = ("fc",)
    headings = dict(data_of(page_html(conversion))["lists"])
    assert any("odd_field" in line for line in headings["Accepted: fields without a meaning here"])
    assert headings["Accepted: layers without weights in the file"] == ["layer 'fc'"]
    assert (
        dict(data_of(page_html(conversion))["facts"])["compared with real Caffe"]
        == "no: no recorded outputs were given"
    )


class _Tags(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]


def test_names_stay_data_and_nothing_is_loaded(tmp_path: Path) -> None:
    plain = page_html(conversion_of(input_layer("x", 2, 3) + ip("fc", "x", "y", 4), tmp_path))
    evil = "</script><script>document.title=1</script><img src=x onerror=alert(1)>\\u202e{{script}}"
    text = f'name: "{evil}"\n' + input_layer("x", 2, 3) + ip(evil, "x", "y", 4)
    page = page_html(conversion_of(text, tmp_path))
    assert _Tags(page).tags == _Tags(plain).tags
    assert _Tags(page).sources == []
    assert "\u202e" not in page
    assert "default-src 'none'" in page
    assert data_of(page)["layers"][1]["name"].startswith("</script>")


def test_boxes_do_not_overlap_and_stand_below_what_they_read() -> None:
    boxes = [Box(1, ()), Box(2, (0,)), Box(1, (0,)), Box(3, (0, 1, 2)), Box(1, (3,)), Box(1, (0, 4)), Box(1, ())]
    drawing = draw(boxes)
    for i, (x, y, width, height) in enumerate(drawing.boxes):
        assert width == WIDTH
        assert height >= LINE * boxes[i].lines
        assert 0 <= x <= drawing.width - width
        assert 0 <= y <= drawing.height - height
        for above in boxes[i].above:
            assert y >= drawing.boxes[above][1] + drawing.boxes[above][3]
        for other_x, other_y, other_width, other_height in drawing.boxes[:i]:
            apart = x >= other_x + other_width or other_x >= x + width
            assert apart or y >= other_y + other_height or other_y >= y + height
    assert len(drawing.edges) == sum(len(box.above) for box in boxes)
    assert draw([]).boxes == ()


def _resnet(blocks: tuple[int, ...]) -> str:
    """As many layers as He's deep networks have, in their wiring; (3, 8, 36, 3) is that of ResNet-152."""

    def unit(name: str, bottom: str, outputs: int, size: int, relu: bool = True) -> str:
        sizes = f"num_output: {outputs} kernel_size: {size} pad: {size // 2} bias_term: false"
        return (
            layer(name, "Convolution", bottom, name, f"convolution_param {{ {sizes} }}")
            + layer(f"bn_{name}", "BatchNorm", name, name, "batch_norm_param { use_global_stats: true }")
            + layer(f"scale_{name}", "Scale", name, name, "scale_param { bias_term: true }")
            + (layer(f"{name}_relu", "ReLU", name, name) if relu else "")
        )

    text, bottom = 'name: "ResNet-152"\n' + input_layer("data", 1, 3, 56, 56) + unit("conv1", "data", 64, 7), "conv1"
    for stage, (count, outputs) in enumerate(zip(blocks, (256, 512, 1024, 2048), strict=True), 2):
        for i in range(count):
            name = f"res{stage}b{i}"
            if i == 0:
                text += unit(f"{name}_branch1", bottom, outputs, 1, relu=False)
            text += unit(f"{name}_branch2a", bottom, outputs // 4, 1)
            text += unit(f"{name}_branch2b", f"{name}_branch2a", outputs // 4, 3)
            text += unit(f"{name}_branch2c", f"{name}_branch2b", outputs, 1, relu=False)
            skip = f"{name}_branch1" if i == 0 else bottom
            text += layer(name, "Eltwise", f"{skip} {name}_branch2c", name) + layer(f"{name}_relu", "ReLU", name, name)
            bottom = name
    text += layer("pool5", "Pooling", bottom, "pool5", "pooling_param { pool: AVE global_pooling: true }")
    return text + ip("fc1000", "pool5", "fc1000", 1000) + layer("prob", "Softmax", "fc1000", "prob")


def test_the_page_of_a_deep_network_is_small(tmp_path: Path) -> None:
    page = page_html(conversion_of(_resnet((3, 8, 36, 3)), tmp_path))
    assert len(data_of(page)["layers"]) > 660
    assert len(page.encode()) < 5_000_000
    # Nothing of it is elsewhere: no picture, font, style sheet or program is fetched.
    outside = r"""(?:src|href|action)\s*=\s*["']?(?!#|data:)\S|url\((?!#)|@import|fetch\(|https?://(?!www\.w3\.org)"""
    assert re.findall(outside, page) == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_opens_and_searches_the_page_of_a_deep_network(tmp_path: Path) -> None:
    save_page(conversion_of(_resnet((3, 8, 36, 3)), tmp_path), tmp_path / "page.html")
    with open_browser(tmp_path / "profile", 1400, 850) as page:
        begun = time.monotonic()
        page.open(tmp_path / "page.html")
        page.eval("document.getElementById('search').focus()")
        for letter in "res4b7_branch2b":
            page.key(letter, text=letter)
        page.wait("document.body.dataset.found > 0")
        taken = time.monotonic() - begun
        assert page.state()["found"] == "5"
        shown = page.eval(
            "[...document.querySelectorAll('#layers tbody tr:not([hidden])')].map(r => r.cells[0].textContent)"
        )
        # The last of these reads the blob.
        assert shown == [f"{before}res4b7_branch2{b}" for before, b in (("", "b"), ("bn_", "b"), ("scale_", "b"))] + [
            "res4b7_branch2b_relu",
            "res4b7_branch2c",
        ]
        assert page.eval("document.querySelectorAll('.box.found').length") == 2
        assert page.eval("document.querySelector('.box.found').getBoundingClientRect().height") > 20
        before = page.eval("document.querySelector('.box.found').getBoundingClientRect().top")
        for kind, y in (("mousePressed", 400), ("mouseMoved", 460), ("mouseReleased", 460)):
            page.mouse(kind, 300, y, button="left", buttons=1, clickCount=1)
        assert abs(page.eval("document.querySelector('.box.found').getBoundingClientRect().top") - before - 60) < 2
        assert [e["params"] for e in page.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")] == []
        asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith("file:")] == []
    assert taken < 3


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_hostile_names_as_they_are(tmp_path: Path) -> None:
    evil = "</script><script>document.title=1</script><img src=x onerror=alert(1)>"
    save_page(conversion_of(input_layer("x", 2, 3) + ip(evil, "x", "y", 4), tmp_path), tmp_path / "page.html")
    with open_browser(tmp_path / "profile") as page:
        page.open(tmp_path / "page.html")
        assert page.eval("document.querySelectorAll('img').length") == 0
        assert page.eval("document.querySelector('#layers tbody').rows[1].cells[0].textContent") == evil
        page.eval("document.querySelector('#layers tbody').rows[1].click()")
        assert evil in page.eval("document.getElementById('chosen').textContent")
        assert page.eval("document.title") == "net.prototxt - conversion"


def test_every_layer_of_an_ssd_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(small_networks.SSD)
    definition = read_definition(tmp_path / "net.prototxt", "weiliu89/caffe@ssd")
    net = CaffeNet(definition.message, dialect=definition.schema.name)
    data = data_of(page_html(Conversion(net, definition, FillReport())))
    assert sorted(i for stack in data["stacks"] for i in stack) == list(range(len(data["layers"])))
    assert len(data["boxes"]) == len(data["stacks"])
