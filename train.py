"""Train ARTV: `python train.py --config configs/tiny.toml [--resume]`, or `accelerate launch train.py --config ...` on
several devices and machines. Everything else is in `artv_core.training`."""

import argparse
import sys
import time

STARTED = time.monotonic()

from artv_core.files.terminal import escape_unprintable  # noqa: E402
from artv_core.training.command import add_options, run_train  # noqa: E402


def main() -> int:
    """Parse the arguments and train. Returns the exit code."""
    escape_unprintable()
    parser = argparse.ArgumentParser(description="Train ARTV from a TOML configuration.")
    add_options(parser)
    return run_train(parser.parse_args(), "train.py", STARTED)


if __name__ == "__main__":
    sys.exit(main())
