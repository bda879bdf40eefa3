"""`artv info`: what a checkpoint holds."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """The command and what it takes."""
    parser = commands.add_parser(
        "info",
        help="what a checkpoint holds",
        description="Configuration, parameters of each network, and what is missing for which use.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", nargs="?", default="tiny", metavar="CHECKPOINT", help="default: the shipped tiny")
    parser.set_defaults(run=run_info)


def run_info(args: argparse.Namespace) -> int:
    """What the file's header says; no weights are read."""
    from ..checkpoint import describe_checkpoint, resolve_checkpoint
    from ..checkpoint.info import info_lines

    print("\n".join(info_lines(describe_checkpoint(resolve_checkpoint(args.checkpoint)))))
    return 0
