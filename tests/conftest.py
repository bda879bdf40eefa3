"""What several test files need."""

import gc
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

if WORKERS := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    # Before torch is imported, and for every process that a test starts: together no more threads than cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

MUST_RUN = "--host-must-run"

LONGEST = (
    "host/test_adapt.py",
    "host/test_front_end.py",
    "host/test_memory.py",
    "host/test_browser.py",
    "test_training.py",
    "test_training_clips.py",
    "test_training_graphs.py",
    "host/test_storage.py",
    "test_play.py",
    "host/test_copies.py",
    "host/test_automatic.py",
    "host/test_timeline.py",
    "host/test_nodes.py",
    "test_prepare.py",
    "host/test_loader_panel.py",
    "test_evaluate.py",
    "host/test_releases.py",
    "host/test_steer.py",
    "test_training_resident.py",
    "test_cli.py",
    "host/test_workflows.py",
    "host/test_demo.py",
    "test_savings.py",
    "test_acceleration.py",
    "test_ablations.py",
    "test_training_minutes.py",
    "host/test_journal.py",
    "test_distill.py",
    "test_shipped.py",
    "host/test_keyframes.py",
    "host/test_live.py",
    "test_detailed_world.py",
    "test_pictures.py",
    "test_fuzz.py",
    "host/test_step_masks.py",
    "test_checkpoint.py",
    "test_captured.py",
    "test_pictures_quality.py",
    "test_error_bank.py",
    "host/test_drift_readout.py",
    "test_first_frames.py",
    "test_unet.py",
    "test_pictures_training.py",
)
"""Files that begin first: a process that is given one of them last keeps the other waiting."""


class HostTests:
    """Counts the tests that passed in a ComfyUI. Where one is there and none did, the run fails.

    `hosts` are the folders that are there. A test in a host has the property "host" (tests/host/conftest.py); reports
    bring it along, also from another process.
    """

    def __init__(self, hosts: list[str]) -> None:
        self.hosts, self.passed = hosts, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        is_in_host = any(name == "host" for name, _ in report.user_properties)
        self.passed += report.when == "call" and report.passed and is_in_host

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.lacking and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.lacking:
            there = ", ".join(self.hosts)
            terminalreporter.write_line(f"{MUST_RUN}: ComfyUI is at {there}, but no test passed in it", red=True)

    @property
    def lacking(self) -> bool:
        return bool(self.hosts) and not self.passed


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first. With `--no-loadscope-reorder` xdist hands out files in this order."""
    folder = Path(__file__).parent
    place = {folder / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What collecting imports stays. Python need not search it for garbage, now or later: with torch that is a third of
    a second each time."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def earlier_files_stay() -> None:
    """What earlier files of tests imported is not searched for garbage again either."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries in C complain at the end that their objects were left


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "fail where a ComfyUI is found and no test passed in it, as when all were skipped; for CI"
    parser.addoption(MUST_RUN, action="store_true", help=told)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(MUST_RUN) and not hasattr(config, "workerinput"):
        from artv_core.commands.comfyui_server import find_hosts

        config.pluginmanager.register(HostTests([str(host.root) for host in find_hosts()]))


COUNTED: dict[str, object] = {}


@pytest.fixture(scope="module")
def counted_once() -> Iterator[None]:
    """Training begins with a count of its operations and with a timed matrix product, for MFU. That takes longer than
    the few steps of most tests. With this, what was counted already is not counted again."""
    from artv_core.training import loop
    from artv_core.training.diffusion import DiffusionTraining

    count, measure = DiffusionTraining.flops_per_sample, loop.peak_flops

    def kept(key: object, make: Callable[[], Any]) -> Any:
        return COUNTED[repr(key)] if repr(key) in COUNTED else COUNTED.setdefault(repr(key), make())

    def count_once(stage: DiffusionTraining) -> float:
        return kept((stage.model.config, stage.model.mask is None, stage.config.train), lambda: count(stage))

    def measure_once(device: Any, half: bool) -> Any:
        return kept((device, half), lambda: measure(device, half))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionTraining, "flops_per_sample", count_once)
        patch.setattr(loop, "peak_flops", measure_once)
        yield


@contextmanager
def nothing_counted() -> Iterator[None]:
    from artv_core.training import loop
    from artv_core.training.diffusion import DiffusionTraining

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionTraining, "flops_per_sample", lambda stage: 1.0)
        patch.setattr(loop, "peak_flops", lambda device, half: (1.0, "not measured"))
        yield


@pytest.fixture(scope="module")
def uncounted() -> Iterator[None]:
    """As `counted_once`, where nothing reads the MFU: nothing is counted."""
    with nothing_counted():
        yield


@pytest.fixture
def uncounted_here() -> Iterator[None]:
    """As `uncounted`, for one test of a module where others are counted."""
    with nothing_counted():
        yield


@pytest.fixture(scope="module")
def all_used() -> Iterator[None]:
    """Weights that no loss depends on are not looked for in each test: there are none, as one test says."""
    from artv_core.training import resident

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "unused_parameters", lambda stage: [])
        yield


@contextmanager
def limited_file_size(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """`with file_size_limit(n):` no file may grow beyond n bytes: real failing writes, with no right needed.

    A context and not a fixture's lifetime, for pytest itself may be writing its report to a file.
    """
    return limited_file_size
