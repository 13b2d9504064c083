"""Pictures for demo videos: a room, an articulated figure seen by a simple camera, and an H.264 file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer

from sightline.errors import InputError
from sightline.records.files import whole_file

Colour = tuple[int, int, int]
"""Blue, green, red, 0..255, as OpenCV orders them."""

Joints = Mapping[str, np.ndarray]
"""Joint name to float64 [3]: metres to the figure's left, up from the floor, and forward."""

JOINT_NAMES = (
    *("pelvis", "neck", "head"),
    *(f"{joint}_{side}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe") for side in "lr"),
)

# From joint, to joint, width in metres, colour role.
_LIMBS = tuple(
    limb
    for side in "lr"
    for limb in (
        (f"shoulder_{side}", f"elbow_{side}", 0.095, "shirt"),
        (f"elbow_{side}", f"wrist_{side}", 0.075, "skin"),
        (f"hip_{side}", f"knee_{side}", 0.145, "trousers"),
        (f"knee_{side}", f"ankle_{side}", 0.110, "trousers"),
        (f"ankle_{side}", f"toe_{side}", 0.085, "shoes"),
    )
)
_SUBPIXEL_BITS = 4
_HEAD_RADIUS = 0.125


@dataclass(frozen=True)
class FigureStyle:
    """Colours of a figure."""

    skin: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour = (40, 36, 34)
    hair: Colour = (34, 40, 52)


@dataclass(frozen=True)
class Camera:
    """An orthographic camera that looks slightly down at a figure standing at the origin.

    Attributes:
        yaw: Radians; 0 sees the figure from the front, pi/2 from its left side.
        pitch: Radians that the camera looks down.
        pixels_per_metre: Scale.
        origin: Pixel (x, y) of the point of the floor the figure stands on.
        aim: Point of the floor (left, forward) in metres that is shown at `origin`.
    """

    yaw: float
    pitch: float
    pixels_per_metre: float
    origin: tuple[float, float]
    aim: tuple[float, float] = (0.0, 0.0)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps float64 [n, 3] metres to float64 [n, 2] pixels (x, y) and [n] nearness in metres."""
        left, up, forward = points[:, 0] - self.aim[0], points[:, 1], points[:, 2] - self.aim[1]
        across = left * math.cos(self.yaw) + forward * math.sin(self.yaw)
        nearness = forward * math.cos(self.yaw) - left * math.sin(self.yaw)
        x = self.origin[0] + self.pixels_per_metre * across
        height = up * math.cos(self.pitch) - nearness * math.sin(self.pitch)
        y = self.origin[1] - self.pixels_per_metre * height
        return np.stack([x, y], axis=1), nearness


def paint_room(height: int, width: int, wall: Colour, floor: Colour, horizon: float = 0.72) -> np.ndarray:
    """Paints a shaded wall, a skirting board and a floor.

    Args:
        height: Pixels.
        width: Pixels.
        wall: Colour of the wall at its brightest.
        floor: Colour of the floor at its brightest.
        horizon: Height of the edge between wall and floor, as a fraction from the top.

    Returns:
        uint8 [height, width, 3], BGR.
    """
    rows = np.arange(height, dtype=np.float64)[:, None, None]
    columns = np.arange(width, dtype=np.float64)[None, :, None]
    edge = horizon * height
    falloff = 1.0 - 0.22 * np.abs(columns / width - 0.45)
    wall_light = (0.78 + 0.22 * rows / edge) * falloff
    floor_light = (0.70 + 0.30 * (rows - edge) / (height - edge)) * falloff
    picture = np.where(rows < edge, wall_light * np.array(wall), floor_light * np.array(floor))
    skirting = (rows >= edge - 0.02 * height) & (rows < edge)
    picture = np.where(skirting, 0.62 * picture, picture)
    return np.ascontiguousarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def draw_figure(canvas: np.ndarray, joints: Joints, camera: Camera, style: FigureStyle) -> None:
    """Draws a figure with shaded, anti-aliased limbs onto `canvas`, far parts first.

    Args:
        canvas: uint8 [height, width, 3], BGR; changed in place.
        joints: All of JOINT_NAMES.
        camera: Where the figure is seen from.
        style: Colours.

    Raises:
        InputError: A joint is missing.
    """
    missing = [name for name in JOINT_NAMES if name not in joints]
    if missing:
        raise InputError("a figure needs all its joints", field=", ".join(missing), mend="give the joint's place")
    places = np.stack([joints[name] for name in JOINT_NAMES])
    pixels, nearness = camera.project(places)
    at = {name: pixels[index] for index, name in enumerate(JOINT_NAMES)}
    near = {name: float(nearness[index]) for index, name in enumerate(JOINT_NAMES)}
    _draw_shadow(canvas, places, camera)
    parts: list[tuple[float, tuple[str, ...], float, str]] = [
        ((near[start] + near[end]) / 2, (start, end), width, role) for start, end, width, role in _LIMBS
    ]
    torso = (near["pelvis"] + near["neck"]) / 2
    parts.append((torso, ("torso",), 0.0, "shirt"))
    parts.append((near["head"], ("head",), 0.0, "skin"))
    for depth, names, width, role in sorted(parts, key=lambda part: (part[0], part[1])):
        colour = _shade(getattr(style, role), depth)
        if names == ("torso",):
            _draw_torso(canvas, at, camera, colour, _shade(style.trousers, depth))
        elif names == ("head",):
            _draw_head(canvas, at, camera, style)
        else:
            _draw_limb(canvas, at[names[0]], at[names[1]], width * camera.pixels_per_metre, colour)


def _shade(colour: Colour, nearness: float) -> Colour:
    light = min(max(0.95 + 0.55 * nearness, 0.66), 1.08)
    blue, green, red = (int(min(channel * light, 255)) for channel in colour)
    return blue, green, red


def _fixed(point: np.ndarray) -> tuple[int, int]:
    scale = 1 << _SUBPIXEL_BITS
    return round(float(point[0]) * scale), round(float(point[1]) * scale)


def _draw_limb(canvas: np.ndarray, start: np.ndarray, end: np.ndarray, width: float, colour: Colour) -> None:
    thickness = max(1, round(width))
    cv2.line(canvas, _fixed(start), _fixed(end), colour, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_torso(
    canvas: np.ndarray, at: Mapping[str, np.ndarray], camera: Camera, shirt: Colour, trousers: Colour
) -> None:
    corners = [at["shoulder_l"], at["shoulder_r"], at["hip_r"], at["hip_l"]]
    outline = np.array([_fixed(corner) for corner in corners], dtype=np.int32)
    scale = camera.pixels_per_metre
    cv2.fillPoly(canvas, [outline], shirt, cv2.LINE_AA, _SUBPIXEL_BITS)
    waist = 0.7 * at["pelvis"] + 0.3 * at["neck"]
    _draw_limb(canvas, at["neck"], waist, 0.20 * scale, shirt)
    _draw_limb(canvas, at["shoulder_l"], at["shoulder_r"], 0.11 * scale, shirt)
    _draw_limb(canvas, at["shoulder_l"], at["hip_l"], 0.09 * scale, shirt)
    _draw_limb(canvas, at["shoulder_r"], at["hip_r"], 0.09 * scale, shirt)
    _draw_limb(canvas, at["hip_l"], at["hip_r"], 0.15 * scale, trousers)


def _draw_head(canvas: np.ndarray, at: Mapping[str, np.ndarray], camera: Camera, style: FigureStyle) -> None:
    scale = camera.pixels_per_metre
    radius = round(_HEAD_RADIUS * scale * (1 << _SUBPIXEL_BITS))
    _draw_limb(canvas, at["neck"], at["head"], 0.08 * scale, style.skin)
    upward = at["head"] - at["neck"]
    upward = upward / max(float(np.linalg.norm(upward)), 1e-6)
    crown = at["head"] + 0.03 * scale * upward
    cv2.circle(canvas, _fixed(crown), radius, style.hair, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    # The face lies below the crown and on the side the figure looks to.
    looking = np.array([math.sin(camera.yaw), 0.0])
    face = at["head"] + scale * (0.035 * looking - 0.015 * upward)
    cv2.circle(canvas, _fixed(face), round(0.9 * radius), style.skin, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_shadow(canvas: np.ndarray, places: np.ndarray, camera: Camera) -> None:
    ground = places.copy()
    ground[:, 1] = 0.0
    pixels, _ = camera.project(ground)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    pad = 0.06 * camera.pixels_per_metre
    centre = (low + high) / 2
    scale = 1 << _SUBPIXEL_BITS
    axes = (
        round(float((high[0] - low[0]) / 2 + pad) * scale),
        round(float((high[1] - low[1]) / 2 + pad / 2) * scale),
    )
    row = int(min(max(centre[1], 0), canvas.shape[0] - 1))
    column = int(min(max(centre[0], 0), canvas.shape[1] - 1))
    blue, green, red = (int(0.72 * int(channel)) for channel in canvas[row, column])
    cv2.ellipse(canvas, _fixed(centre), axes, 0, 0, 360, (blue, green, red), -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _mp4(path: Path) -> OutputContainer:
    return av.open(str(path), "w", format="mp4", container_options={"fflags": "bitexact"})


def write_mp4(path: str | Path, frames: Iterable[np.ndarray], fps: int | Fraction) -> int:
    """Encodes frames as H.264 (yuv420p, BT.601) in MP4; equal frames give equal bytes on one machine.

    Args:
        path: Target; written as a whole or not at all.
        frames: uint8 [height, width, 3] BGR pictures of one size with even sides.
        fps: Constant rate that the container declares.

    Returns:
        Number of frames written.

    Raises:
        InputError: There is no frame, or a frame's size is odd or differs from the first.
    """
    count = 0
    with whole_file(path) as temporary, _mp4(temporary) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        # One thread and no wall-clock metadata: otherwise the bytes differ from run to run.
        stream.options = {"preset": "ultrafast", "crf": "28", "threads": "1", "g": "60"}
        stream.codec_context.thread_count = 1
        for picture in frames:
            if count == 0:
                stream.height, stream.width = picture.shape[:2]
            if picture.shape != (stream.height, stream.width, 3) or stream.height % 2 or stream.width % 2:
                raise InputError(
                    f"frame is {picture.shape}, video is {(stream.height, stream.width, 3)} with even sides",
                    file=path,
                    item=f"frame {count}",
                    mend="give frames of one even size",
                )
            planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = count
            frame.time_base = Fraction(1) / Fraction(fps)
            container.mux(stream.encode(frame))
            count += 1
        if count == 0:
            raise InputError("a video needs at least one frame", file=path, mend="give frames")
        container.mux(stream.encode(None))
    return count
