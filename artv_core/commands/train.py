"""`artv train`: the same as `python train.py`."""

import argparse
import time
from typing import Any

STARTED = time.monotonic()


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    from ..training.command import add_options, run_train

    def run(args: argparse.Namespace) -> int:
        return run_train(args, "artv train", STARTED)

    parser = commands.add_parser(
        "train",
        help="train on your own clips, or on clips generated on the fly",
        description="Trains from a TOML configuration, as `python train.py` does. A stopped run "
        "continues with --resume.",
        allow_abbrev=False,
    )
    add_options(parser)
    parser.set_defaults(run=run)
