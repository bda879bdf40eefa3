"""What a user of ComfyUI's registry gets: the repository less what `.comfyignore` names."""

import subprocess
from pathlib import Path

import pytest

from artv_core.checkpoint import shipped_checkpoint, shipped_names

ROOT = Path(__file__).resolve().parent.parent
MEGABYTES = 75


def listed(*options: str) -> set[str]:
    return set(
        subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    )


def test_the_folder_that_a_user_gets_is_small() -> None:
    tracked = listed()
    if tracked == {""}:
        pytest.skip("not a git repository: what would be published is not known")
    served = [ROOT / name for name in tracked - listed("-ci", "--exclude-from=.comfyignore") if (ROOT / name).is_file()]
    assert sum(path.stat().st_size for path in served) < MEGABYTES * 10**6
    there = {name for name in shipped_names() if shipped_checkpoint(name).resolve() in served}
    assert there == set(shipped_names()) - {"small-fast", "tiny-fast"} == {"small", "tiny"}
    assert ROOT / "nodes/sampler.py" in served
