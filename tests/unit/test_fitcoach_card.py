"""The card and the room's own dataclasses spell the same switches with the same defaults."""

from __future__ import annotations

from dataclasses import asdict

from sightline.systems.fitcoach.annotations import QevdQuirks
from sightline.systems.fitcoach.card import Quirks


def test_quirks_of_card_and_parser_agree() -> None:
    assert Quirks().model_dump() == asdict(QevdQuirks())
