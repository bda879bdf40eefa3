"""`artv prepare`: clips made ready to train on."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """The command and what it takes."""
    from ..prepare.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        from ..prepare.run import prepare

        return prepare(options)

    parser = commands.add_parser(
        "prepare",
        help="make clips ready to train on: cleaned, and as latents in shards",
        description="Cleans captioned clips as the paper does (motion score, CLIP score) and keeps their latents and "
        "text embeddings in shards. A run that was stopped goes on when it is asked for again. Values are ours: the "
        "paper names none.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)
