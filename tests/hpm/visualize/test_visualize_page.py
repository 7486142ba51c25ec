"""The interactive page: what it holds, what cannot get into it, and that a real browser shows it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_compat.display import shown
from caffe_compat.errors import UsageError
from hpm.skeleton import H36M16
from hpm.visualize import Scene, page_html, save_page
from tests.chromium import CHROMIUM, Page, open_browser
from tests.hpm.visualize import scenes


class Parsed(html.parser.HTMLParser):
    """Tags, their attributes and texts, as an HTML parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside, []).append(data)

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(next(text for text in self.texts["script"] if text.startswith("{")))


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_embedded_data() -> None:
    scene = scenes.scene(160, 120)
    told: list[tuple[int, int]] = []
    data = Parsed(page_html(scene, fps=12.5, progress=lambda done, total: told.append((done, total)))).data
    assert data["count"] == scenes.FRAMES
    assert data["fps"] == 12.5
    assert data["names"][3] == "walk/0003.jpg"
    assert data["joints"] == list(H36M16.joints)
    assert [tuple(bone) for bone in data["bones"]] == list(H36M16.bones)
    assert [side[0] for side in data["sides"]] == [n[0].lower() if n[0] in "LR" else "m" for n in H36M16.joints]
    assert [pose["key"] for pose in data["poses"]] == ["truth", "coarse", "refined"]
    for pose, array in zip(data["poses"], (scene.truth, scene.coarse, scene.refined), strict=True):
        assert np.array_equal(floats(pose["points"]).reshape(array.shape), array.astype(np.float32))
    assert data["poses"][0]["errors"] is None
    by_hand = np.sqrt(((scene.coarse - scene.truth) ** 2).sum(2)).sum(1) / 16
    assert np.allclose(floats(data["poses"][1]["errors"]), by_hand, rtol=1e-6)
    assert np.allclose(
        floats(data["flat"]["points"]).reshape(-1, 16, 2) * (160, 120), np.asarray(scene.pose2d_pixels), atol=1e-3
    )
    assert data["flat"]["sizes"] == [[160, 120]] * scenes.FRAMES
    assert told == [(k, scenes.FRAMES) for k in range(1, scenes.FRAMES + 1)]


def test_a_long_scene_is_thinned_out() -> None:
    scene = scenes.scene(160, 120)
    data = Parsed(page_html(scene, fps=12, most=3)).data
    assert (data["count"], data["total"], data["step"], data["fps"]) == (3, scenes.FRAMES, 3, 4)
    # What is left keeps its own names, and everything is of the same frames.
    assert data["names"] == ["walk/0000.jpg", "walk/0003.jpg", "walk/0006.jpg"]
    assert len(data["flat"]["pictures"]) == len(data["flat"]["sizes"]) == 3
    coarse = floats(data["poses"][1]["points"]).reshape(3, 16, 3)
    np.testing.assert_array_equal(coarse, scene.coarse[::3].astype(np.float32))
    np.testing.assert_array_equal(floats(data["poses"][1]["errors"]), scene.errors["coarse"][::3].astype(np.float32))
    assert Parsed(page_html(scene, most=scenes.FRAMES)).data["step"] == 1
    with pytest.raises(UsageError, match="at most 0 frames"):
        page_html(scene, most=0)


def test_embedded_pictures_keep_colours_and_shrink() -> None:
    data = Parsed(page_html(scenes.scene(160, 120), picture_side=80, quality=95)).data
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in data["flat"]["pictures"]]
    assert [(p.format, p.size) for p in pictures] == [("JPEG", (80, 60))] * scenes.FRAMES
    pixels = np.asarray(pictures[4].convert("RGB"))
    red, green, blue = pixels[55, 40]
    assert blue > 200
    assert max(red, green) < 60
    red, green, blue = pixels[22, 40]
    assert green > 180
    assert blue < 100


def test_parts_may_be_missing() -> None:
    assert Parsed(page_html(Scene(coarse=scenes.truth()))).data["flat"] is None
    data = Parsed(page_html(Scene(pose2d_normalised=scenes.pose2d(1, 1)))).data
    assert data["poses"] == []
    assert data["flat"]["pictures"] == []
    missing = scenes.pose2d(90, 90)
    missing[2, 5] = np.nan
    points = floats(Parsed(page_html(Scene(pose2d_pixels=missing))).data["flat"]["points"]).reshape(-1, 16, 2)
    assert np.argwhere(np.isnan(points)).tolist() == [[2, 5, 0], [2, 5, 1]]


def test_settings_that_cannot_be() -> None:
    for wrong in ({"fps": 0.0}, {"fps": float("nan")}, {"picture_side": 0}, {"quality": 0}, {"quality": 100}):
        with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
            page_html(scenes.scene(), **wrong)


HOSTILE = [
    "</script><script>document.title = 'gone'</script>",
    "<!--<script>",
    "</title><img src=x onerror=alert(1)>",
    "\u2028 {{script}} {{data}} \\u003c & ' \" \udcff",
    "<![CDATA[",
    "</SCRIPT >",
    "plain",
]


def test_nothing_can_break_out_of_the_data() -> None:
    plain = Parsed(page_html(Scene(truth=scenes.truth()), title="plain"))
    for title in HOSTILE:
        parsed = Parsed(page_html(Scene(truth=scenes.truth(), names=HOSTILE), title=title))
        assert parsed.tags == plain.tags
        # Read back whole, but for what is no letter: that is written out, as everywhere else.
        assert parsed.data["names"] == [shown(name) for name in HOSTILE]
        assert "".join(parsed.texts["title"]).strip() == shown(title).strip()


def test_the_policy_admits_our_script_and_nothing_else() -> None:
    page = page_html(scenes.scene())
    parsed = Parsed(page)
    policy = next(attrs["content"] for tag, attrs in parsed.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, tag in (("script-src", "script"), ("style-src", "style")):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(text) == 1
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()}'"
    assert not [attrs for _, attrs in parsed.tags if attrs.keys() & {"src", "href", "style", "onload", "onclick"}]
    assert "http:" not in page
    assert "https:" not in page


# In a real browser


needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser, google-chrome or chrome here"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, tmp_path: Path) -> Page:
    """The page of a whole scene, freshly opened."""
    save_page(scenes.scene(), tmp_path / "page.html", title="A walk", fps=20)
    browser.events.clear()
    browser.open(tmp_path / "page.html")
    return browser


def pixels(page: Page, canvas: str) -> np.ndarray:
    """What is on a canvas, (H, W, 4), RGBA."""
    page.state()
    size = page.eval(f"[document.getElementById('{canvas}').height, document.getElementById('{canvas}').width]")
    text = page.eval(
        f"""(() => {{
            const c = document.getElementById('{canvas}');
            const bytes = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let text = '';
            for (let k = 0; k < bytes.length; k += 8192) text += String.fromCharCode(...bytes.subarray(k, k + 8192));
            return btoa(text);
        }})()"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(*size, 4)


def near(image: np.ndarray, colour: str) -> np.ndarray:
    """Where an image has a colour, give or take."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return (np.abs(image[..., :3].astype(int) - wanted).max(-1) < 12) & (image[..., 3] > 200)


LEFT, RIGHT = "#0072b2", "#d55e00"


@needs_chromium
def test_it_draws(page: Page) -> None:
    view, picture, chart = (pixels(page, canvas) for canvas in ("view", "picture", "chart"))
    third = view.shape[1] // 3
    for k in range(3):
        panel = view[:, k * third : (k + 1) * third]
        left, right = np.argwhere(near(panel, LEFT)), np.argwhere(near(panel, RIGHT))
        assert min(len(left), len(right)) > 300
        # The body faces the camera: what is left on it is to the right of the panel, and it fills most of the height.
        assert left[:, 1].mean() > right[:, 1].mean() + 20
        assert np.ptp(np.argwhere(near(panel, LEFT) | near(panel, RIGHT))[:, 0]) > 0.25 * view.shape[0]
    page.wait("document.body.dataset.drawn > 1")
    picture = pixels(page, "picture")
    assert near(picture, "#0000ff").sum() > 5000
    assert near(picture, "#00ff00").sum() > 500
    assert near(picture, LEFT).sum() > 100
    assert near(chart, "#b35806").sum() > 100
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGBA"))
    assert shot.shape == (700, 1200, 4)
    assert near(shot, LEFT).sum() >= near(view, LEFT).sum()


@needs_chromium
def test_it_asks_nothing_of_the_network_and_reports_no_error(page: Page) -> None:
    page.state()
    urls = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    assert urls
    assert not [url for url in urls if not url.startswith(("file:///", "data:image/jpeg;base64,"))]
    assert sum(url.startswith("file:") for url in urls) == 1
    problems = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert not [event for event in page.events if event.get("method") in problems]


@needs_chromium
def test_slider_shows_another_frame(page: Page) -> None:
    assert page.state()["frame"] == "0"
    first = pixels(page, "view")
    box = page.eval(
        "(({x, y, width, height}) => [x, y, width, height])(document.getElementById('slider').getBoundingClientRect())"
    )
    where = {"x": box[0] + box[2] - 4, "y": box[1] + box[3] / 2, "button": "left", "clickCount": 1}
    page.mouse("mousePressed", **where)
    page.mouse("mouseReleased", **where)
    last = scenes.FRAMES - 1
    assert page.state()["frame"] == str(last)
    assert page.eval("document.getElementById('counter').textContent") == f"{last + 1} / {last + 1}"
    assert page.eval("document.getElementById('name').textContent") == f"walk/{last:04d}.jpg"
    errors = scenes.scene().errors
    legend = page.eval("document.getElementById('legend').textContent")
    assert f"Coarse{errors['coarse'][last]:.1f} mm" in legend
    assert f"Refined{errors['refined'][last]:.1f} mm" in legend
    assert (pixels(page, "view") != first).any(-1).sum() > 1000


@needs_chromium
def test_mouse_turns_and_wheel_zooms(page: Page) -> None:
    before, first = page.state(), pixels(page, "view")
    page.mouse("mousePressed", 700, 300, button="left", clickCount=1)
    page.mouse("mouseMoved", 760, 330, button="left", buttons=1)
    page.mouse("mouseReleased", 760, 330, button="left")
    after = page.state()
    assert float(after["yaw"]) == pytest.approx(float(before["yaw"]) + 0.6)
    assert float(after["pitch"]) == pytest.approx(float(before["pitch"]) + 0.3)
    assert (pixels(page, "view") != first).any(-1).sum() > 1000
    page.mouse("mouseMoved", 800, 330)
    assert page.state()["yaw"] == after["yaw"]
    page.mouse("mouseWheel", 700, 300, deltaX=0, deltaY=-300)
    assert float(page.state()["zoom"]) == pytest.approx(np.exp(0.3), abs=1e-3)
    page.eval("document.getElementById('reset').click()")
    again = page.state()
    assert [again[k] for k in ("yaw", "pitch", "zoom")] == [before[k] for k in ("yaw", "pitch", "zoom")]
    assert np.array_equal(pixels(page, "view"), first)


@needs_chromium
def test_a_turn_by_half_shows_the_back(page: Page) -> None:
    page.mouse("mousePressed", 700, 300, button="left", clickCount=1)
    page.mouse("mouseMoved", 700 + 314, 300, button="left", buttons=1)
    page.mouse("mouseReleased", 700 + 314, 300, button="left")
    view = pixels(page, "view")
    panel = view[:, : view.shape[1] // 3]
    left, right = np.argwhere(near(panel, LEFT)), np.argwhere(near(panel, RIGHT))
    assert left[:, 1].mean() < right[:, 1].mean() - 20


@needs_chromium
def test_depth_is_not_mirrored(browser: Page, tmp_path: Path) -> None:
    """Dragged to the right, what is near goes to the right; seen from above, it lies lower."""
    save_page(Scene(truth=scenes.reaching()), tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    wrist, hip = (np.argwhere(near(pixels(browser, "view"), colour)).mean(0) for colour in (LEFT, RIGHT))
    assert wrist[0] > hip[0] + 5
    browser.mouse("mousePressed", 600, 300, button="left", clickCount=1)
    browser.mouse("mouseMoved", 700, 300, button="left", buttons=1)
    browser.mouse("mouseReleased", 700, 300, button="left")
    wrist, hip = (np.argwhere(near(pixels(browser, "view"), colour)).mean(0) for colour in (LEFT, RIGHT))
    assert wrist[1] > hip[1] + 20


@needs_chromium
def test_touch_turns_and_two_fingers_zoom(page: Page) -> None:
    page.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    try:
        before = page.state()
        for kind, points in (
            ("touchStart", [(700, 300)]),
            ("touchMove", [(720, 300)]),
            ("touchStart", [(720, 300), (820, 300)]),
            ("touchMove", [(720, 300), (870, 300)]),
            ("touchEnd", []),
        ):
            touches = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
            page.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)
        after = page.state()
        assert float(after["yaw"]) == pytest.approx(float(before["yaw"]) + 0.2, abs=0.02)
        assert float(after["zoom"]) == pytest.approx(1.5, abs=0.05)
    finally:
        page.call("Emulation.setTouchEmulationEnabled", enabled=False)


@needs_chromium
def test_switches_and_overlay(page: Page) -> None:
    assert page.state()["shown"] == "truth coarse refined"
    page.eval("document.querySelector('[data-pose=coarse]').click()")
    assert page.state()["shown"] == "truth refined"
    view = pixels(page, "view")
    half = view.shape[1] // 2
    assert min(near(view[:, :half], LEFT).sum(), near(view[:, half:], LEFT).sum()) > 300
    page.eval("document.getElementById('overlay').click()")
    view = pixels(page, "view")
    assert near(view[60:], LEFT).sum() == 0
    assert near(view, "#1b7837").sum() > 200
    assert near(view, "#2d3f9e").sum() > 200
    assert near(view, "#b35806").sum() == 0
    for key in ("truth", "refined"):
        page.eval(f"document.querySelector('[data-pose={key}]').click()")
    assert page.state()["shown"] == ""
    assert near(pixels(page, "view"), "#1b7837").sum() == 0


@needs_chromium
def test_pointing_at_a_joint_names_it(page: Page) -> None:
    page.eval("document.getElementById('overlay').click()")
    page.eval("document.querySelector('[data-pose=truth]').click()")
    page.eval("document.querySelector('[data-pose=refined]').click()")
    page.state()
    box = page.eval("(({x, y}) => [x, y])(document.getElementById('view').getBoundingClientRect())")
    ends = np.argwhere(near(pixels(page, "view"), "#e6a15c"))
    y, x = ends[ends[:, 0].argmax()]
    page.mouse("mouseMoved", box[0] + x, box[1] + y - 3)
    name, pose, place, off = page.eval("document.getElementById('tip').textContent").split("\n")
    scene = scenes.scene()
    foot = H36M16.index("LFoot")
    assert (name, pose) == ("LFoot", "Coarse")
    assert place == ", ".join(f"{v:.0f}" for v in scene.coarse[0, foot]) + " mm"
    assert off == f"{np.linalg.norm(scene.coarse[0, foot] - scene.truth[0, foot]):.1f} mm off"
    assert page.eval("document.getElementById('tip').hidden") is False
    page.mouse("mouseMoved", box[0] + 3, box[1] + 3)
    assert page.eval("document.getElementById('tip').hidden") is True


@needs_chromium
def test_it_plays_and_keys_step(page: Page) -> None:
    page.key("ArrowRight")
    page.key("ArrowRight")
    page.key("ArrowLeft")
    assert page.state()["frame"] == "1"
    page.eval("document.getElementById('play').click()")
    assert page.state()["playing"] == "true"
    page.wait("Number(document.body.dataset.frame) >= 4")
    # Behind the last frame comes the first.
    page.wait("Number(document.body.dataset.frame) < 3")
    assert page.eval("document.getElementById('play').textContent") == "Pause"
    page.eval("document.getElementById('play').click()")
    stopped = page.state()
    assert stopped["playing"] == "false"
    page.eval("new Promise((done) => setTimeout(done, 150))")
    assert page.state()["frame"] == stopped["frame"]


@needs_chromium
def test_chart_seeks(page: Page) -> None:
    box = page.eval("(({x, y, width}) => [x, y, width])(document.getElementById('chart').getBoundingClientRect())")
    x, y = box[0] + 8 + (box[2] - 16) * 3 / (scenes.FRAMES - 1), box[1] + 30
    page.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=1)
    page.mouse("mouseReleased", x, y, button="left")
    assert page.state()["frame"] == "3"


@needs_chromium
def test_address_chooses_the_frame(browser: Page, tmp_path: Path) -> None:
    save_page(scenes.scene(), tmp_path / "page.html")
    browser.open(tmp_path / "page.html", "#frame=5")
    assert browser.state()["frame"] == "5"


@needs_chromium
def test_hostile_names_are_only_text(browser: Page, tmp_path: Path) -> None:
    save_page(Scene(truth=scenes.truth(), names=HOSTILE), tmp_path / "page.html", title=HOSTILE[0])
    browser.open(tmp_path / "page.html")
    assert browser.eval("document.title") == HOSTILE[0]
    assert browser.eval("document.querySelector('h1').textContent") == HOSTILE[0]
    for frame in range(3):
        assert browser.eval("document.getElementById('name').textContent") == HOSTILE[frame]
        browser.key("ArrowRight")
        browser.state()
    assert browser.eval("document.images.length") == 0
    assert browser.eval("document.scripts.length") == 2


@needs_chromium
def test_2d_alone_and_one_frame(browser: Page, tmp_path: Path) -> None:
    lost = scenes.pose2d(90, 60)[:1]
    lost[0, H36M16.index("LFoot")] = np.nan
    save_page(Scene(pose2d_pixels=lost), tmp_path / "flat.html")
    browser.open(tmp_path / "flat.html")
    assert near(pixels(browser, "picture"), LEFT).sum() > 200
    shown = {part: browser.eval(f"!document.getElementById('{part}').hidden") for part in ("flat", "space", "chart")}
    assert shown == {"flat": True, "space": False, "chart": False}
    browser.eval("document.getElementById('play').click()")
    assert browser.state()["playing"] == "false"
