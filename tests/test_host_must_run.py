"""`--host-must-run`, with which CI runs the tests: a ComfyUI that is there but that no test ran in is no success."""

import sys
from pathlib import Path

import pytest

import artv_core.checkpoint  # noqa: F401 - brings torch, which no process can import twice

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
PASSES, SKIPS = "assert host", "pytest.skip('as where the host lacks something')"
TOLD = "*--host-must-run: ComfyUI is at *, but no test passed in it"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `tests/host` may have been imported under the names that its copies get here."""
    for name in [name for name in sys.modules if name.split(".")[0] == "host"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is recognised as a ComfyUI; it could not run."""
    folder = tmp_path / "ComfyUI"
    (folder / "comfy_api").mkdir(parents=True)
    (folder / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    return folder


def run_tests(pytester: pytest.Pytester, in_host: str, *arguments: str) -> pytest.RunResult:
    """Two tests, one of which has a host as a parameter, with the real conftests."""
    pytester.makeini(f"[pytest]\npythonpath = {TESTS.parent}\naddopts = --import-mode=importlib\n")
    pytester.makeconftest((TESTS / "conftest.py").read_text(encoding="utf-8"))
    host = pytester.mkdir("host")
    (host / "conftest.py").write_text((TESTS / "host" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (host / "test_it.py").write_text(
        f"import pytest\ndef test_in_a_host(host):\n    {in_host}\ndef test_without():\n    pass\n"
    )
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


@pytest.mark.usefixtures("comfyui")
def test_a_host_in_which_all_tests_were_skipped_is_a_failure(pytester: pytest.Pytester) -> None:
    result = run_tests(pytester, SKIPS, "--host-must-run")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([TOLD])
    result.assert_outcomes(passed=1, skipped=1)


@pytest.mark.usefixtures("comfyui")
def test_no_test_in_a_host_is_a_failure_too(pytester: pytest.Pytester) -> None:
    result = run_tests(pytester, PASSES, "--host-must-run", "-k", "without")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([TOLD])


@pytest.mark.usefixtures("comfyui")
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_one_test_that_passes_in_a_host_is_enough(pytester: pytest.Pytester, workers: tuple[str]) -> None:
    result = run_tests(pytester, PASSES, "--host-must-run", *workers)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line(TOLD)


@pytest.mark.usefixtures("comfyui")
def test_nobody_is_told_who_did_not_ask(pytester: pytest.Pytester) -> None:
    result = run_tests(pytester, SKIPS)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line(TOLD)


def test_without_a_host_its_tests_may_be_skipped(comfyui: Path, pytester: pytest.Pytester) -> None:
    (comfyui / "main.py").unlink()
    result = run_tests(pytester, PASSES, "--host-must-run")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1)
