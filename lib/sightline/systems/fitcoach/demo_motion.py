"""How the demo's figure moves: one pose function per exercise, with a mistake that can be seen.

A pose is a function of the phase of one repetition (0 and 1: start position, 0.5: deepest point)
and of how strongly each mistake is made (0 to 1). Lengths are metres, angles radians; the axes are
those of `sightline.video.render`: left, up, forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Pose = dict[str, np.ndarray]

_THIGH, _SHANK = 0.44, 0.43
_UPPER_ARM, _FOREARM = 0.29, 0.27
_SPINE, _NECK_TO_HEAD = 0.53, 0.21
_SHOULDER, _HIP = 0.19, 0.11
_ANKLE_HEIGHT, _FOOT = 0.08, 0.19
_STANDING = 0.945
_SIDES = (("l", 1.0), ("r", -1.0))


def _vector(left: float, up: float, forward: float) -> np.ndarray:
    return np.array([left, up, forward], dtype=np.float64)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def bend_limb(
    root: np.ndarray, target: np.ndarray, first: float, second: float, hint: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places the middle joint of a limb of two bones.

    Args:
        root: Shoulder or hip, [3].
        target: Where wrist or ankle should be, [3]; pulled in when out of reach.
        first: Length of the bone at the root.
        second: Length of the other bone.
        hint: Direction the middle joint bends to, [3].

    Returns:
        Middle joint and end of the limb, [3] each.
    """
    reach = target - root
    distance = min(max(float(np.linalg.norm(reach)), abs(first - second) + 1e-6), 0.9995 * (first + second))
    along = _unit(reach)
    sideways = _unit(hint - along * float(hint @ along))
    base = (first**2 - second**2 + distance**2) / (2 * distance)
    height = math.sqrt(max(first**2 - base**2, 0.0))
    return root + base * along + height * sideways, root + distance * along


@dataclass(frozen=True)
class _Trunk:
    """Pelvis, spine direction and the line through both shoulders."""

    pelvis: np.ndarray
    spine: np.ndarray
    neck: np.ndarray

    def shoulder(self, sign: float) -> np.ndarray:
        return self.neck - 0.05 * self.spine + _vector(sign * _SHOULDER, 0, 0)

    def hip(self, sign: float) -> np.ndarray:
        return self.pelvis + _vector(sign * _HIP, 0, 0)


def _trunk(pelvis: np.ndarray, lean: float) -> _Trunk:
    spine = _vector(0, math.cos(lean), math.sin(lean))
    return _Trunk(pelvis, spine, pelvis + _SPINE * spine)


def _begin(trunk: _Trunk, head_lean: float) -> Pose:
    gaze = _vector(0, math.cos(head_lean), math.sin(head_lean))
    return {"pelvis": trunk.pelvis, "neck": trunk.neck, "head": trunk.neck + _NECK_TO_HEAD * gaze}


def _add_leg(
    pose: Pose, trunk: _Trunk, side: str, sign: float, ankle: np.ndarray, knee_hint: np.ndarray, toe: np.ndarray
) -> None:
    hip = trunk.hip(sign)
    knee, end = bend_limb(hip, ankle, _THIGH, _SHANK, knee_hint)
    pose[f"hip_{side}"], pose[f"knee_{side}"], pose[f"ankle_{side}"] = hip, knee, end
    pose[f"toe_{side}"] = end + _FOOT * _unit(toe)


def _add_arm(pose: Pose, trunk: _Trunk, side: str, sign: float, wrist: np.ndarray, elbow_hint: np.ndarray) -> None:
    shoulder = trunk.shoulder(sign)
    elbow, end = bend_limb(shoulder, wrist, _UPPER_ARM, _FOREARM, elbow_hint)
    pose[f"shoulder_{side}"], pose[f"elbow_{side}"], pose[f"wrist_{side}"] = shoulder, elbow, end


def _flat_foot(sign: float) -> np.ndarray:
    return _vector(0.35 * sign, -0.22, 1.0)


def _depth(phase: float) -> float:
    return 0.5 - 0.5 * math.cos(2 * math.pi * phase)


def standing() -> Pose:
    """Returns the rest position: upright, arms hanging."""
    trunk = _trunk(_vector(0, _STANDING, 0), 0.02)
    pose = _begin(trunk, 0.05)
    for side, sign in _SIDES:
        _add_leg(pose, trunk, side, sign, _vector(0.13 * sign, _ANKLE_HEIGHT, 0), _vector(0, 0, 1), _flat_foot(sign))
        wrist = trunk.shoulder(sign) + _vector(0.08 * sign, -0.54, 0.03)
        _add_arm(pose, trunk, side, sign, wrist, _vector(0.3 * sign, 0, -1))
    return pose


def _squat(phase: float, repetition: int, mistakes: Mapping[str, float]) -> Pose:
    down = _depth(phase)
    bow = mistakes.get("leaning", 0.0)
    trunk = _trunk(_vector(0, _STANDING - 0.44 * down, -0.26 * down), 0.45 * down + bow * (0.50 + 0.25 * down))
    pose = _begin(trunk, 0.15 * down + 0.7 * bow)
    for side, sign in _SIDES:
        ankle = _vector(0.20 * sign, _ANKLE_HEIGHT, 0)
        _add_leg(pose, trunk, side, sign, ankle, _vector(0.45 * sign, 0, 1), _flat_foot(sign))
        raised = 0.3 + 1.27 * min(1.0, 1.6 * down)
        arm = 0.52 * _vector(0.06 * sign, -math.cos(raised), math.sin(raised))
        _add_arm(pose, trunk, side, sign, trunk.shoulder(sign) + arm, _vector(0.3 * sign, -1, 0))
    return pose


def _jumping_jack(phase: float, repetition: int, mistakes: Mapping[str, float]) -> Pose:
    out = _depth(phase)
    hop = 0.05 * abs(math.sin(2 * math.pi * phase))
    foot = 0.11 + 0.34 * out
    height = _ANKLE_HEIGHT + math.sqrt((0.99 * (_THIGH + _SHANK)) ** 2 - (foot - _HIP) ** 2)
    trunk = _trunk(_vector(0, height + hop, 0), 0.02)
    pose = _begin(trunk, 0.03)
    for side, sign in _SIDES:
        ankle = _vector(foot * sign, _ANKLE_HEIGHT + hop, 0)
        _add_leg(pose, trunk, side, sign, ankle, _vector(0.3 * sign, 0, 1), _flat_foot(sign))
        lazy = mistakes.get("one arm", 0.0) if side == "r" else 0.0
        angle = 0.2 + 2.65 * out * (1 - 0.95 * lazy)
        arm = 0.54 * _vector(sign * math.sin(angle), -math.cos(angle), 0.04)
        _add_arm(pose, trunk, side, sign, trunk.shoulder(sign) + arm, _vector(sign, 0.2, -0.4))
    return pose


def _arm_circle(phase: float, repetition: int, mistakes: Mapping[str, float]) -> Pose:
    tilt = 0.85
    trunk = _trunk(_vector(0, _STANDING, 0), 0.02)
    pose = _begin(trunk, 0.03)
    turn = 2 * math.pi * phase
    for side, sign in _SIDES:
        ankle = _vector(0.2 * sign, _ANKLE_HEIGHT, 0)
        _add_leg(pose, trunk, side, sign, ankle, _vector(0.2 * sign, 0, 1), _flat_foot(sign))
        across = _vector(sign * math.cos(tilt), -math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn))
        lazy = mistakes.get("one arm", 0.0) if side == "l" else 0.0
        arm = 0.55 * _unit((1 - lazy) * across + lazy * _vector(0.15 * sign, -1, 0.05))
        _add_arm(pose, trunk, side, sign, trunk.shoulder(sign) + arm, _vector(0, -1, -0.3))
    return pose


def _push_up(phase: float, repetition: int, mistakes: Mapping[str, float]) -> Pose:
    down = _depth(phase)
    pike = mistakes.get("hips high", 0.0)
    feet, length = -0.86, _THIGH + _SHANK - 0.01
    chest = 0.60 - 0.40 * down
    plank = math.asin((chest - 0.10) / (length + _SPINE))
    rise = plank + pike * (0.62 - 0.5 * plank)
    pelvis = _vector(0, 0.10 + length * math.sin(rise), feet + length * math.cos(rise))
    drop = min(max((pelvis[1] - chest) / _SPINE, -1.0), 1.0)
    trunk = _trunk(pelvis, math.pi / 2 + math.asin(drop))
    pose = _begin(trunk, 1.15 + 0.3 * pike)
    for side, sign in _SIDES:
        ankle = _vector(0.10 * sign, 0.10, feet)
        _add_leg(pose, trunk, side, sign, ankle, _vector(0.1 * sign, -1, 0.2), _vector(0, -0.5, 0.25))
        wrist = _vector(0.24 * sign, 0.03, 0.48 - 0.16 * pike)
        _add_arm(pose, trunk, side, sign, wrist, _vector(0.8 * sign, 0.2, -0.6))
    return pose


@dataclass(frozen=True)
class Exercise:
    """One exercise of the demo.

    Attributes:
        name: As the coach calls it.
        pose: Phase 0..1, repetition number, strength per mistake -> pose.
        mistake: Name of the mistake that can be made.
        period: Shortest and longest seconds per repetition.
        yaw: Radians the camera stands to the figure's left.
        middle: Point of the floor (left, forward) around which the exercise happens.
    """

    name: str
    pose: Callable[[float, int, Mapping[str, float]], Pose]
    mistake: str
    period: tuple[float, float]
    yaw: float
    middle: tuple[float, float] = (0.0, 0.0)


EXERCISES: tuple[Exercise, ...] = (
    Exercise("squats", _squat, "leaning", (1.5, 1.9), 0.75),
    Exercise("jumping jacks", _jumping_jack, "one arm", (0.95, 1.3), 0.05),
    Exercise("arm circles", _arm_circle, "one arm", (1.1, 1.5), 0.12),
    Exercise("push-ups", _push_up, "hips high", (1.4, 1.8), 1.02, (0.0, -0.08)),
)


def blend(first: Pose, second: Pose, share: float) -> Pose:
    """Returns the pose `share` of the way (0..1, eased) from `first` to `second`."""
    eased = share * share * (3 - 2 * share)
    return {joint: (1 - eased) * first[joint] + eased * second[joint] for joint in first}
