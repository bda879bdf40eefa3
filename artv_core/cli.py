"""The command line: `artv demo`, `generate`, `play`, `journals`, `info`, `prepare`, `train`, `bench`, `evaluate`. An
error of a user gives one line and exit code 2. Each command is a module of `commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .commands import bench, demo, evaluate, generate, info, journals, play, prepare, train
from .files.terminal import INTERRUPTED, USER_ERROR, escape_unprintable, say, version
from .files.user_errors import Remedy, UserError

WHERE = {
    Remedy.BASE: "name a base checkpoint with --base",
    Remedy.NO_JOURNAL: "do without a journal (--no-journal)",
}
"""What a user of the command line can do about an error."""
COMMANDS = (demo, generate, play, journals, info, prepare, train, bench, evaluate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `artv` with these arguments (by default the process's own). Returns the exit code."""
    escape_unprintable()
    try:
        args = build_parser().parse_args(argv)
        return args.run(args)
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        say("stopped")
        return INTERRUPTED
    except UserError as error:
        say(error.phrased(WHERE))
    except (ValueError, OSError) as error:
        say(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError, TypeError) as error:
        say(_device_fault(error))
    return USER_ERROR


def _device_fault(error: Exception) -> str:
    """One line that says what the device cannot do; any other error is raised again."""
    from .speed.device_limits import is_out_of_memory, lacking_ability

    if is_out_of_memory(error):
        return "out of memory; try a smaller size, a smaller batch, or --dtype bfloat16"
    lacking = lacking_ability(error)
    if not lacking:
        raise error
    return lacking


class _Parser(argparse.ArgumentParser):
    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings == ["--"]:  # before Python 3.13 this becomes an empty list
            raise argparse.ArgumentError(action, "expected one argument")
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; each command stores its function in `run`."""
    parser = _Parser(
        prog="artv",
        description="ART-V: text to video, one frame at a time. To try it, run: artv demo",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        print("artv", version())
        raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
