"""Tables in Markdown, and the places in pages that a command fills."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sightline.records.files import write_text


def cells(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill_page(page: Path, name: str, text: str) -> None:
    """Replaces what stands between `<!-- NAME: measured -->` and `<!-- end -->` of a page.

    Raises:
        ValueError: The page has no such place, or several.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)}: measured -->\n).*?(<!-- end -->)", re.DOTALL)
    filled, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page}: {count} places named {name}")
    write_text(page, filled)
