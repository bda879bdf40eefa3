"""The same variants after a long training: each goes on from the shipped checkpoint until it has settled."""

from ablation_parts import variants
from ablation_parts.runs import Budget
from ablation_parts.variants import measure

__all__ = ["BUDGET", "measure", "names"]
BUDGET = Budget(steps=600, start_from="tiny")


def names(everything: bool) -> tuple[str, ...]:
    """As of "variants". The checkpoint has two references, so none can have one."""
    return tuple(name for name in variants.names(everything) if name != "one reference")
