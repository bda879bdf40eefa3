"""`artv journals`: lists the journals in a folder, or removes some."""

import argparse
from pathlib import Path
from typing import Any

from ..files.terminal import USER_ERROR, say


def add_command(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "journals",
        help="list the journals in a folder, or delete some",
        description="Lists journals with their sizes and contents; --remove deletes those that you name.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("artv_journals"),
        metavar="DIR",
        help="folder of the journals; default: %(default)s",
    )
    parser.add_argument(
        "--remove", nargs="+", default=[], metavar="NAME", help="delete these journals, named as in the list"
    )
    parser.set_defaults(run=run_journals)


def run_journals(args: argparse.Namespace) -> int:
    """Remove the named journals, then list those that are left. Goes on with the others if one cannot be removed."""
    from ..run.journal_list import journal_table, list_journals, remove_journal

    if not args.folder.is_dir():
        raise ValueError(f"there is no folder {args.folder}; give the folder that contains the journals")
    paths = {journal.path.name: journal.path for journal in list_journals(args.folder)}
    unknown = [name for name in args.remove if name not in paths]
    if unknown:
        raise ValueError(
            f"there is no journal {unknown[0]!r} in {args.folder}; it contains: {', '.join(paths) or 'none'}"
        )
    kept = 0
    for name in dict.fromkeys(args.remove):
        try:
            remove_journal(paths[name])
        except ValueError as error:
            say(f"{name} was not removed: {error}")
            kept += 1
    print(journal_table(list_journals(args.folder)))
    return USER_ERROR if kept else 0
