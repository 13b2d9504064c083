"""A few of the demo's videos, drawn: a hand that does something (verb) to something (noun) on a table (participant)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sightline.systems.sgear.demo_plan import DemoAction, DemoVideo
from sightline.video.render import write_mp4

FPS = 10
_WIDTH, _HEIGHT = 160, 90
_COLOURS = ((60, 60, 220), (60, 180, 60), (200, 120, 40), (40, 190, 220), (180, 70, 180), (120, 120, 120))
_SKIN = (150, 180, 225)
Point = tuple[int, int]


def write_video(root: str | Path, video: DemoVideo) -> Path:
    """Writes `<participant>/<video>.MP4` below `root` and returns its path."""
    path = Path(root) / video.participant / f"{video.name}.MP4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, _pictures(video), FPS)
    return path


def _pictures(video: DemoVideo) -> Iterator[np.ndarray]:
    table = _table(int(video.participant[1:]))
    for number in range(int(video.seconds * FPS)):
        moment = 100 * number / FPS
        canvas = table.copy()
        for action in video.actions:
            if action.start_cs <= moment < action.stop_cs:
                _draw(canvas, action, (moment - action.start_cs) / (action.stop_cs - action.start_cs))
        yield canvas


def _table(participant: int) -> np.ndarray:
    canvas = np.full((_HEIGHT, _WIDTH, 3), (70 + 9 * participant % 60, 110, 140 + 11 * participant % 50), np.uint8)
    cv2.rectangle(canvas, (0, 0), (_WIDTH, 22), (150, 150, 140), -1)
    return canvas


def _draw(canvas: np.ndarray, action: DemoAction, share: float) -> None:
    place = (_WIDTH // 2, _HEIGHT // 2 + 10)
    _object(canvas, action.noun, place)
    x, y = _hand(action.verb, share)
    hand = (place[0] + x, place[1] + y)
    cv2.line(canvas, (hand[0] + 40, _HEIGHT), hand, _SKIN, 9, cv2.LINE_AA)
    cv2.circle(canvas, hand, 8, _SKIN, -1, cv2.LINE_AA)


def _object(canvas: np.ndarray, noun: int, place: Point) -> None:
    colour = _COLOURS[noun % len(_COLOURS)]
    if noun % 3 == 0:
        cv2.rectangle(canvas, (place[0] - 16, place[1] - 6), (place[0] + 16, place[1] + 6), colour, -1)
    elif noun % 3 == 1:
        cv2.circle(canvas, place, 13, colour, -1, cv2.LINE_AA)
    else:
        corners = np.array([[place[0], place[1] - 14], [place[0] - 15, place[1] + 11], [place[0] + 15, place[1] + 11]])
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def _hand(verb: int, share: float) -> Point:
    turn = 2 * math.pi * share
    ways = (
        (round(45 - 45 * share), 0),
        (round(45 * share), 0),
        (round(14 * math.sin(3 * turn)), -8),
        (0, round(-26 * share)),
        (4, round(-10 * abs(math.sin(4 * turn)))),
        (round(16 * math.cos(2 * turn)), round(8 * math.sin(2 * turn))),
        (round(-20 * share), round(-20 + 10 * share)),
    )
    return ways[verb % len(ways)]
