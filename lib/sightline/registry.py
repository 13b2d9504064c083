"""The explicit list of rooms. A room is loaded only when it is asked for.

A new system adds one line here, one include in the Snakefile and one selection in config/config.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from sightline.config.load import load_workflow
from sightline.config.models import SystemCard
from sightline.config.plan import Plan
from sightline.errors import ConfigError

ROOMS: dict[str, str] = {
    "fitcoach": "FitcoachCard",
    "sgear": "SgearCard",
    "hoiref": "HoirefCard",
}


def room(system: str, door: str) -> ModuleType:
    """Imports one module of a room, e.g. `room("fitcoach", "score")`.

    Raises:
        ConfigError: There is no such room or it has no such door.
    """
    if system not in ROOMS:
        raise ConfigError([f"system {system} is unknown. Known: {', '.join(ROOMS)}"])
    name = f"sightline.systems.{system}.{door}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError([f"system {system} has no {door}"]) from None


def room_of_layout(layout: str, door: str) -> ModuleType:
    """Imports a door of the room that reads a dataset layout.

    Raises:
        ConfigError: No room reads it.
    """
    for system, name in ROOMS.items():
        if layout in getattr(room(system, "card"), name).LAYOUTS:
            return room(system, door)
    raise ConfigError([f"no system reads the layout {layout}"])


def card_models() -> dict[str, type[SystemCard]]:
    """Returns the card class of every room."""
    return {system: getattr(room(system, "card"), name) for system, name in ROOMS.items()}


def load_plan(config: Mapping[str, Any], root: Path) -> Plan:
    """Checks the merged configuration and returns what is to be made from it.

    Raises:
        ConfigError: Anything is wrong; every mistake is listed.
    """
    models = card_models()
    return Plan(load_workflow(config, root, models), models)
