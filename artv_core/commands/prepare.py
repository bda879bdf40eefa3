"""`artv prepare`: prepares clips for training."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    from ..prepare.options import add_arguments, from_arguments

    def run(args: argparse.Namespace) -> int:
        options = from_arguments(args)
        from ..prepare.run import prepare

        return prepare(options)

    parser = commands.add_parser(
        "prepare",
        help="prepare clips for training: select them, and encode them into shards",
        description="Selects captioned clips as the paper does (by motion score and CLIP score) and "
        "keeps their latents and text embeddings in shards. A stopped run continues with the "
        "same command. The default values are not from the paper.",
        allow_abbrev=False,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)
