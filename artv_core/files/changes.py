"""What differs between two sets of settings, for messages. Not in the paper."""

from collections.abc import Mapping


def changes(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Each setting that differs, as "name then -> now". A missing one is None."""
    return [
        f"{name} {then.get(name)} -> {now.get(name)}" for name in {**then, **now} if then.get(name) != now.get(name)
    ]
