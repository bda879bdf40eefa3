"""What is checked before a prompt is run, so that the host refuses it and marks the node.

`validate_inputs` of a node gets the values of its widgets; what a wire brings is not known yet and is left out. The
host shows what is wrong at every input that the method names, and does not check the limits of these inputs itself.
"""

from collections.abc import Callable
from typing import Any


def verdict(check: Callable[..., Any], *values: Any) -> bool | str:
    """As the host wants it: True, or the line of the ValueError that `check(*values)` raises. True too where a value is
    not known yet (None)."""
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True
