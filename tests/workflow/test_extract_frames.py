"""Pictures out of videos in a whole run: taken when a room declares a list, once, and only if asked for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sightline.features.extracted_frames import FRAMES_PER_ITEM, ExtractedFrames
from sightline.video.frames import read_index
from sightline.video.requests import FrameRequest, FrameTransform, write_requests

from tests.workflow.conftest import Checkout

pytestmark = pytest.mark.workflow
PICTURES = "results/frames/demo_test/pictures.json"
REQUESTS = "results/frames/demo_test/requests/by_hand.jsonl"


def declare(checkout: Checkout) -> None:
    """Lets the room's card name a list of frames."""
    with open(checkout.folder / "lib/sightline/systems/fitcoach/card.py", "a") as card:
        card.write('\n\nFitcoachCard.FRAME_REQUESTS = ("by_hand",)\n')


def test_pictures_are_taken_for_a_room_that_declares_a_list(again: Checkout) -> None:
    declare(again)
    assert again.planned() == {}, "no target reads pictures, so none are taken"
    row = read_index(again.folder / "results/frames/demo_test/realtime16/index.jsonl")[0]
    small = FrameTransform(short_side=48)
    wanted = [0, 100, row.info["frames"] - 1]
    (again.folder / REQUESTS).parent.mkdir()
    write_requests(again.folder / REQUESTS, [FrameRequest(row.video_id, frame, small) for frame in wanted])
    again.forget_timings()
    again.snakemake(PICTURES)
    items = len({frame // FRAMES_PER_ITEM for frame in wanted})
    assert again.counts("extract_frames") == {"videos": 1, "frames": 3, "items": items, "computed_frames": 3}
    assert again.planned(PICTURES) == {}
    (video,) = (again.folder / "results/assets/fitcoach_demo/content").rglob(f"*/{row.path}")
    capture = cv2.VideoCapture(str(video))
    frames = {index: capture.read()[1] for index in range(row.info["frames"])}
    with ExtractedFrames(again.folder / PICTURES) as pictures:
        for frame in wanted:
            assert np.array_equal(pictures.read(row.video_id, frame, small), small.apply(frames[frame])[:, :, ::-1])

    again.forget_timings()
    again.snakemake("--forcerun", "extract_frames", "--", PICTURES)
    assert again.counts("extract_frames")["computed_frames"] == 0
