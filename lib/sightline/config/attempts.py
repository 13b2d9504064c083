"""What a job asks for when it is tried again: a job that ran out of memory or time gets more of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Need = int | Callable[[Any], int]


def growing(need: Need) -> Callable[[Any, int], int]:
    """Returns a resource for a rule: `need` at the first attempt, twice that at the second, and so on.

    Args:
        need: A number, or a function of the wildcards that gives one.
    """

    def wanted(wildcards: Any, attempt: int) -> int:
        return attempt * (need(wildcards) if callable(need) else need)

    return wanted
