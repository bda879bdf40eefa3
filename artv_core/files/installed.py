"""Packages that only some commands need: whether they are there, and how to get them."""

from importlib.util import find_spec


def check_installed(*packages: str, extra: str) -> None:
    """Raises ValueError, naming the missing packages of an `extra`."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}; {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """What to do to get the packages of an `extra`; double quotes, which every shell takes, Windows' too."""
    return f'in the folder of ARTV, run: pip install ".[{extra}]"'
