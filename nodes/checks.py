"""Checks inputs before a prompt runs, so that the host refuses the prompt and marks the node. Also reports what a
device cannot do.

A node's `validate_inputs` gets the values of its widgets. Values from wires are not known yet and are left out. The
host shows the error at every input that the method names, and leaves checking the limits of these inputs to the method.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..artv_core.files.user_errors import Remedy, UserError
from ..artv_core.speed.device_limits import lacking_ability

_DEVICE_ADVICE = "start ComfyUI with --force-fp32, turn off 'compile' and 'CUDA graph' of the model, or use --cpu"


WHERE = {
    Remedy.BASE: "choose its base in the menu 'base' of ARTV Loader",
    Remedy.NO_JOURNAL: "turn the journal off with the node ARTV Journal",
}
"""What a user of ComfyUI can do about an error."""


def verdict(check: Callable[..., Any], *values: Any) -> bool | str:
    """The result as the host expects it: True, or the text of the ValueError that `check(*values)` raises. Also True if
    a value is not known yet (None)."""
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except ValueError as error:
        return str(error)
    return True


def told(error: BaseException) -> str:
    """The error for a user of ComfyUI, who finds remedies elsewhere than one of the command line."""
    return error.phrased(WHERE) if isinstance(error, UserError) else str(error)


@contextmanager
def faults_named() -> Iterator[None]:
    """Inside the block, errors of the core say what to do in ComfyUI. If a device cannot do something, such as half
    precision, the error becomes a ValueError of one line. Other errors pass through, because the host itself handles
    lack of memory and interrupted runs."""
    try:
        yield
    except UserError as error:
        raise ValueError(told(error)) from None
    except (RuntimeError, TypeError) as error:
        lacking = lacking_ability(error, _DEVICE_ADVICE)
        if not lacking:
            raise
        raise ValueError(lacking) from error
