"""What the process that measures does first. It imports nothing slow, such as torch: so it is done at once."""

import signal


def ignore_ctrl_c() -> None:
    """Leave Ctrl-C, which a terminal sends to both processes, to the one that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
