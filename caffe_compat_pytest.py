"""The pytest plugin of caffe-compat: ``pytest --parity parity.toml`` tests models against what real Caffe gave.

pytest loads this file in every project of the environment, so it stands outside the packages and imports none of them,
nor torch, before somebody asks for a parity test or a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from caffe_compat import CaffeNet
    from caffe_compat.testing.suite import ParityTest

__all__ = ["caffe_net", "parity"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--parity FILE``; without FILE, the table of the project's ``pyproject.toml``."""
    parser.getgroup("caffe-compat").addoption(
        "--parity",
        metavar="FILE",
        nargs="?",
        const="pyproject.toml",
        action="append",
        default=[],
        help="also test the models that FILE lists (a parity.toml; by default [tool.caffe_compat.parity] of "
        "pyproject.toml) against recorded outputs of real Caffe",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The files join what is to be collected; their tests carry a marker."""
    config.addinivalue_line("markers", "parity: a model against recorded outputs of real Caffe")
    wanted: set[Path] = set()
    for name in config.getoption("--parity"):
        path = (config.rootpath if name == "pyproject.toml" else config.invocation_params.dir) / name
        if not path.is_file():
            raise pytest.UsageError(f"--parity {name}: no such file")
        wanted.add(path.resolve())
        if str(path) not in config.args:  # a process of xdist gets those of the one that started it
            config.args.append(str(path))
    config.stash[_FILES] = wanted


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Only the files that ``--parity`` named."""
    if file_path.resolve() in parent.config.stash.get(_FILES, set()):
        return SuiteFile.from_parent(parent, path=file_path)
    return None


_FILES = pytest.StashKey[set[Path]]()


class SuiteFile(pytest.File):
    """A ``parity.toml``."""

    def collect(self) -> Iterator[ParityItem]:
        from caffe_compat.errors import CaffeCompatError
        from caffe_compat.testing.suite import read_suite

        try:
            tests = read_suite(self.path)
        except CaffeCompatError as error:
            raise self.CollectError(str(error)) from None
        for test in tests:
            item = ParityItem.from_parent(self, name=test.id, test=test)
            item.add_marker("parity")
            yield item


class ParityItem(pytest.Item):
    """A model in one form, on one device, in one precision."""

    def __init__(self, *, test: ParityTest, **more: Any) -> None:
        super().__init__(**more)
        self.test = test

    def runtest(self) -> None:
        from caffe_compat.testing.checks import is_there, run_test, scratch
        from caffe_compat.testing.failure import explain

        if not is_there(self.test.device):
            pytest.skip(f"this machine has no {self.test.device}")
        with scratch(self.test) as folder:
            outcome = run_test(self.test, folder)
        if not outcome.report.ok:
            raise _DepartsError(explain(self.test, outcome.report, outcome.makers))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What a user can use: no traceback of a model that cannot be loaded or departs."""
        from caffe_compat.errors import CaffeCompatError
        from caffe_compat.testing.failure import reproduce

        if isinstance(excinfo.value, _DepartsError):
            return str(excinfo.value)
        if isinstance(excinfo.value, CaffeCompatError):
            return f"{self.test.place}: {excinfo.value}\nTo see it again: {reproduce(self.test)}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.test.id


class _DepartsError(AssertionError):
    """The numbers are not within tolerance; the text says where."""


@pytest.fixture(scope="session")
def caffe_net() -> Callable[..., CaffeNet]:
    """``caffe_net("deploy.prototxt", "weights.caffemodel")``: :func:`caffe_compat.load`, once a session for each.

    The net is shared: a test that changes it copies it first (``copy.deepcopy``).
    """
    from caffe_compat import load

    loaded: dict[str, CaffeNet] = {}

    def net(*files: Any, **options: Any) -> CaffeNet:
        key = repr(([str(file) for file in files], sorted(options.items())))
        if key not in loaded:
            loaded[key] = load(*files, **options)
        return loaded[key]

    return net


@pytest.fixture
def parity() -> Callable[..., None]:
    """``parity(net, "reference.h5", tolerance=1e-5)`` fails the test if ``net`` departs, with a table of the worst.

    Arguments as of :func:`caffe_compat.verify`, whose report it returns.
    """
    from caffe_compat import verify

    def check(model: Any, reference: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        report = verify(model, reference, **options)
        if not report.ok:
            pytest.fail(report.table(every_blob=False, only_failures=True), pytrace=False)
        return report

    return check
