"""What is checked before a prompt is run, so that the host refuses it and marks the node; and what a device cannot do.

`validate_inputs` of a node gets the values of its widgets; what a wire brings is not known yet and is left out. The
host shows what is wrong at every input that the method names, and does not check the limits of these inputs itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..artv_core.files.user_errors import Remedy, UserError
from ..artv_core.speed.device_limits import lacking_ability

_DEVICE_ADVICE = "start ComfyUI with --force-fp32, turn off 'compile' and 'graph' in ARTV Loader, or use --cpu"


WHERE = {
    Remedy.BASE: "choose its base in the menu 'base' of ARTV Loader",
    Remedy.NO_JOURNAL: "turn the journal off with the node ARTV Journal",
}
"""Where a user of ComfyUI finds what mends a fault."""


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


@contextmanager
def faults_named() -> Iterator[None]:
    """The core's faults say where in ComfyUI to mend them. What a device cannot do, such as half precision on some, is
    a ValueError of one line. All else is passed on: the host has its own way with memory that runs out and with runs
    that are stopped."""
    try:
        yield
    except UserError as error:
        raise ValueError(error.phrased(WHERE)) from None
    except (RuntimeError, TypeError) as error:
        lacking = lacking_ability(error, _DEVICE_ADVICE)
        if not lacking:
            raise
        raise ValueError(lacking) from error
