"""`artv journals`: the journals of a folder, listed or removed."""

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """The command and what it takes."""
    parser = commands.add_parser(
        "journals",
        help="list the journals of a folder, or remove some",
        description="What journals there are, how large, and of what; with --remove, those named are gone.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("artv_journals"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="remove these, by name as listed")
    parser.set_defaults(run=run_journals)


def run_journals(args: argparse.Namespace) -> int:
    """A list of what is there, after what was to be removed is gone."""
    from ..run.journal_list import journal_table, list_journals, remove_journal

    if not args.folder.is_dir():
        raise ValueError(f"there is no folder {args.folder}; name the one that holds the journals")
    paths = {journal.path.name: journal.path for journal in list_journals(args.folder)}
    unknown = [name for name in args.remove if name not in paths]
    if unknown:
        raise ValueError(f"there is no journal {unknown[0]!r} in {args.folder}; it holds: {', '.join(paths) or 'none'}")
    for name in dict.fromkeys(args.remove):
        remove_journal(paths[name])
    print(journal_table(list_journals(args.folder)))
    return 0
