"""`artv generate` killed while it makes a video, for `tests/test_cli.py` and `benchmarks/faults.py`."""

import subprocess
import time
from pathlib import Path

import av

from artv_core.run.journal import JournalReader
from artv_core.run.journal_folder import FOLDER
from artv_core.run.journal_list import list_journals
from tests.forked import Fork


def journaled(folder: Path) -> int:
    """Sound frames in the folder's longest journal."""
    counts = [0]
    for info in list_journals(folder / FOLDER):
        with JournalReader(info.path) as reader:
            counts.append(reader.count_sound())
    return max(counts)


def killed(process: "subprocess.Popen[str] | Fork", video: Path, frames: int, seconds: float = 0.0) -> tuple[int, int]:
    """Kill the process that makes this video, that time after its journal has this number of frames. Returns how many
    frames the journal has, and how many of them the growing video (`--stream`) cannot show."""
    folder = video.parent
    while max((info.num_frames for info in list_journals(folder / FOLDER)), default=-1) < frames:
        assert process.poll() is None, f"the run ended before frame {frames}"
        time.sleep(0.01)  # the other process needs the time
    time.sleep(seconds)
    process.kill()
    process.communicate()
    kept, readable, part = journaled(folder), 0, video.with_suffix(f".part{video.suffix}")
    try:
        with av.open(str(video if video.is_file() else part)) as container:
            for _ in container.decode(video=0):
                readable += 1
    except (OSError, av.FFmpegError):
        pass  # up to where it cannot be read
    return kept, max(0, kept - readable)
