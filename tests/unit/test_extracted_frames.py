"""Pictures taken out of videos: OpenCV's pixels however they are reached, each taken once and kept whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from threading import active_count

import av
import cv2
import numpy as np
import pytest
from sightline.errors import InputError, ResumableStop, StoreError, VideoError
from sightline.features import extracted_frames
from sightline.features.extracted_frames import FRAMES_PER_ITEM, ExtractedFrames, extract_frames
from sightline.features.index import WorkStores, write_shard_index
from sightline.features.store import DamagedError
from sightline.video import seeking
from sightline.video.decode import iter_frames
from sightline.video.frames import FramePolicy, VideoSource, index_dataset, read_index
from sightline.video.requests import FrameRequest, FrameTransform, read_requests, union, write_requests
from sightline.video.seeking import JUMP_FRAMES, PacketIndex, pick_frames, plan_stretches, read_packets

SECONDS, RATE = 20, 30
FRAMES = SECONDS * RATE
PNG = FrameTransform()
SMALL = FrameTransform(short_side=32, encoding="jpeg", quality=90)
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def remux_turned(source: Path, target: Path, degrees: int) -> None:
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clips")
    source = ["-f", "lavfi", "-i", f"testsrc2=size=96x64:rate={RATE}:duration={SECONDS}"]
    gop30 = place / "gop30.mp4"
    ffmpeg(*source, *X264, "-g", "30", gop30)
    ffmpeg(*source, *X264, "-g", "250", place / "gop250.mp4")
    ffmpeg(*source, *X264, "-g", "30", "-x264opts", "open-gop=1:bframes=3:b-pyramid=normal", place / "open_gop.mp4")
    variable = "select='not(mod(n,3))+not(mod(n,7))'"
    ffmpeg(*source, "-vf", variable, "-fps_mode", "vfr", *X264, "-g", "40", place / "variable.mp4")
    ffmpeg(*source, "-c:v", "libvpx-vp9", "-cpu-used", "8", "-b:v", "200k", "-g", "60", place / "vp9.webm")
    ffmpeg(*source, "-c:v", "mpeg4", "-g", "30", place / "other.avi")
    ffmpeg("-i", gop30, "-c", "copy", place / "stream.ts")
    ffmpeg("-i", place / "vp9.webm", "-c", "copy", "-live", "1", "-f", "webm", place / "no_cues.webm")
    ffmpeg("-ss", "4.5", "-i", gop30, "-c", "copy", place / "cut.mp4")
    remux_turned(gop30, place / "turned.mp4", 90)
    return place


CLIPS = ["gop30", "gop250", "open_gop", "variable", "cut", "turned"]
JUMPED = [f"{name}.mp4" for name in CLIPS] + ["vp9.webm"]
OTHERS = ["other.avi", "stream.ts", "no_cues.webm"]


def opencv_frames(path: Path) -> list[np.ndarray]:
    """Every frame, upright, in OpenCV's way."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


def decoded(monkeypatch: pytest.MonkeyPatch, path: Path, wanted: list[int]) -> tuple[list[np.ndarray], int]:
    """Returns the wanted frames, and how many jumps were taken."""
    jumps = []
    real = seeking._jump
    monkeypatch.setattr(seeking, "_jump", lambda stream, start: (jumps.append(start), real(stream, start)))
    found = list(pick_frames(path, wanted, apply_rotation=True))
    assert [index for index, _ in found] == wanted
    return [picture for _, picture in found], len(jumps)


@pytest.mark.parametrize("name", JUMPED + OTHERS)
def test_pixels_are_opencvs_with_jumps_and_without(folder, monkeypatch, name):
    everything = opencv_frames(folder / name)
    last = len(everything) - 1
    rng = np.random.default_rng(3)
    for wanted in (
        sorted({0, 1, last // 3, last // 3 + 1, last // 2, last - 1, last}),
        sorted(rng.choice(last + 1, 12, replace=False).tolist()),
        [last],
        list(range(0, last + 1, 29)),
    ):
        pictures, jumps = decoded(monkeypatch, folder / name, wanted)
        assert all(np.array_equal(one, everything[index]) for one, index in zip(pictures, wanted, strict=True))
        if name in JUMPED and wanted == [last] and name != "variable.mp4":
            assert jumps, "the last frame alone is reached by a jump"


@pytest.mark.parametrize("name", ["gop30.mp4", "open_gop.mp4", "vp9.webm"])
def test_every_single_frame_can_be_jumped_to(folder, name):
    path = folder / name
    everything = [picture for _, picture in iter_frames(path)]
    index = read_packets(path)
    assert index is not None
    assert len(index.pts) == len(everything)
    for frame in range(100, 165):
        ((_, picture),) = pick_frames(path, [frame])
        assert np.array_equal(picture, everything[frame]), frame


def test_a_jump_is_taken_only_where_it_saves_frames():
    index = PacketIndex(np.arange(1000) * 10, np.arange(0, 1000, 100) * 10)
    assert [one.start for one in plan_stretches(index, [0, 50, 99, 100, 101])] == [None]
    assert [(one.start, one.wanted) for one in plan_stretches(index, [5, 399, 400, 950])] == [
        (None, [5]), (3000, [399, 400]), (9000, [950]),
    ]  # fmt: skip
    assert [one.start for one in plan_stretches(index, [100 - JUMP_FRAMES, 105])] == [None]
    for step in (1, 10, 45, 130, 333):
        wanted = list(range(0, 1000, step))
        stretches = plan_stretches(index, wanted)
        assert [frame for one in stretches for frame in one.wanted] == wanted
        cost = sum(
            one.wanted[-1] + 1 - (one.start or 0) // 10 + JUMP_FRAMES * (one.start is not None) for one in stretches
        )
        assert cost <= wanted[-1] + 1


def test_packets_that_disagree_with_the_frame_index_or_land_elsewhere_are_read_from_the_beginning(folder, monkeypatch):
    path = folder / "gop30.mp4"
    expected = [picture for _, picture in iter_frames(path, [400, 500])]
    assert seeking._way_with_jumps(path, [400, 500], FRAMES) is not None
    assert seeking._way_with_jumps(path, [400, 500], FRAMES + 1) is None
    real = seeking._jump
    monkeypatch.setattr(seeking, "_jump", lambda stream, start: real(stream, start + 90 * 1024))
    assert seeking._way_with_jumps(path, [400, 500], FRAMES) is None
    monkeypatch.setattr(seeking, "_jumps_land", lambda *_: True)  # even unnoticed, no wrong picture comes out
    found = [picture for _, picture in pick_frames(path, [400, 500])]
    assert all(map(np.array_equal, found, expected))
    with pytest.raises(VideoError, match=f"frame {FRAMES} wanted"):
        list(pick_frames(path, [3, FRAMES]))


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"crop": [0, 0, 5]}, "crop"), ({"crop": [0, -1, 5, 5]}, "crop"), ({"size": [0, 5]}, "size"),
        ({"size": 5}, "size"), ({"short_side": 1.5}, "short_side"), ({"short_side": 5, "size": [4, 4]}, "short_side"),
        ({"encoding": "gif"}, "encoding"), ({"encoding": "jpeg"}, "quality"), ({"quality": 90}, "quality"),
        ({"encoding": "jpeg", "quality": 101}, "quality"), ({"colour_order": "gbr"}, "colour_order"),
        ({"interpolation": 3}, "interpolation"), ({"zoom": 2}, "zoom"), ([1], "transform"),
    ],
)  # fmt: skip
def test_a_wrong_transform_is_refused_by_its_field(row, field):
    with pytest.raises(InputError) as caught:
        FrameTransform.from_json(row)
    assert caught.value.field == field


def test_lists_of_requests_say_what_is_wrong_and_where(tmp_path):
    path = tmp_path / "own.jsonl"
    requests = [FrameRequest("a", 3, SMALL), FrameRequest("a", 3, SMALL), FrameRequest("a", 1, PNG)]
    write_requests(path, requests)
    assert set(read_requests(path)) == set(requests)
    assert len(path.read_text().splitlines()) == 2
    good = path.read_text()
    for line, field in (
        ('{"video_id": "a", "frame": -1, "transform": {}}', "frame"),
        ('{"video_id": "a", "frame": true, "transform": {}}', "frame"),
        ('{"video_id": 7, "frame": 1, "transform": {}}', "video_id"),
        ('{"video_id": "a", "frame": 1}', None),
        ('{"video_id": "a", "frame": NaN, "transform": {}}', None),
        ("no json", None),
    ):
        path.write_text(good + line + "\n")
        with pytest.raises(InputError) as caught:
            read_requests(path)
        assert (caught.value.file, caught.value.item, caught.value.field) == (str(path), "line 3", field)
    with pytest.raises(InputError, match="not found"):
        read_requests(tmp_path / "absent.jsonl")


def test_union_asks_for_everything_once():
    requests = [
        FrameRequest("b", 5, PNG), FrameRequest("a", 7, SMALL), FrameRequest("a", 2, SMALL),
        FrameRequest("a", 7, SMALL), FrameRequest("a", 7, FrameTransform(colour_order="bgr")),
        FrameRequest("a", 7, PNG),
    ]  # fmt: skip
    found = union(requests)
    assert list(found) == ["a", "b"]
    assert found == {"a": {PNG: [7], SMALL: [2, 7]}, "b": {PNG: [5]}}
    assert list(found["a"]) == list(union(reversed(requests))["a"])


class Dataset:
    """Clips with their frame index, and a store to extract into."""

    def __init__(self, folder: Path, tmp_path: Path, names: list[str]) -> None:
        self.paths = {Path(name).stem: folder / name for name in names}
        self.work, self.index = tmp_path / "work", tmp_path / "pictures.json"
        sources = [VideoSource(video, path, path.name) for video, path in self.paths.items()]
        index_dataset(sources, tmp_path / "index.jsonl", FramePolicy())
        self.rows = read_index(tmp_path / "index.jsonl")

    def extract(self, requests: list[FrameRequest], **options) -> dict[str, int]:
        with WorkStores(self.work, "pictures", options.pop("backend", "lmdb")) as store:
            keys, counts = extract_frames(
                union(requests), self.rows, self.paths, store, **{"stage_version": 1, **options}
            )
            write_shard_index(store, keys, self.index)
        return counts


@pytest.fixture
def dataset(folder, tmp_path) -> Dataset:
    return Dataset(folder, tmp_path, ["gop30.mp4", "gop250.mp4", "turned.mp4"])


@pytest.mark.parametrize("backend", ["lmdb", "hdf5"])
def test_what_is_read_is_what_opencv_gives(dataset, backend):
    cut = FrameTransform(crop=(8, 4, 40, 50), size=(20, 30), interpolation="linear", colour_order="bgr")
    wanted = [0, 17, 255, 256, 599]
    requests = [
        FrameRequest(video, frame, how) for video in dataset.paths for frame in wanted for how in (PNG, SMALL, cut)
    ]
    counts = dataset.extract(requests, workers=2, backend=backend)
    # Frames 0 to 255, 256 to 511 and 512 to 767 are one item each.
    assert counts == {"videos": 3, "frames": 45, "items": 27, "computed_frames": 45}
    assert active_count() < 10
    with ExtractedFrames(dataset.index) as pictures:
        assert pictures.videos() == sorted(dataset.paths)
        for video, path in dataset.paths.items():
            everything = opencv_frames(path)
            for frame in wanted:
                upright = everything[frame]
                found = pictures.read(video, frame, PNG)
                assert found.dtype == np.uint8
                assert np.array_equal(found, upright[:, :, ::-1])
                part = cv2.resize(upright[4:54, 8:48], (20, 30), interpolation=cv2.INTER_LINEAR)
                assert np.array_equal(pictures.read(video, frame, cut), part)
                size = (32, 48) if video == "turned" else (48, 32)
                small = cv2.resize(upright, size, interpolation=cv2.INTER_AREA)
                data = pictures.encoded(video, frame, SMALL)
                assert data == cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        with pytest.raises(InputError, match=r"gop30.*frame 18 was not extracted"):
            pictures.read("gop30", 18, PNG)
        with pytest.raises(InputError, match=r"other.*frame 4"):
            pictures.read("other", 4, PNG)


def test_more_requests_take_only_what_is_missing_and_copies_are_taken_once(folder, tmp_path):
    (tmp_path / "copy.mp4").write_bytes((folder / "gop30.mp4").read_bytes())
    dataset = Dataset(folder, tmp_path, ["gop30.mp4"])
    twin = Dataset(folder, tmp_path, ["gop30.mp4", str(tmp_path / "copy.mp4")])
    first = [FrameRequest("gop30", frame, PNG) for frame in (3, 300)]
    assert dataset.extract(first)["computed_frames"] == 2
    before = dataset.index.read_bytes()
    assert dataset.extract(first)["computed_frames"] == 0
    assert dataset.index.read_bytes() == before
    more = [*first, FrameRequest("gop30", 301, PNG), FrameRequest("copy", 3, PNG), FrameRequest("gop30", 3, SMALL)]
    assert twin.extract(more)["computed_frames"] == 3  # 300 and 301 are one new item; 3 is there for both ids
    with ExtractedFrames(twin.index) as pictures:
        assert np.array_equal(pictures.read("copy", 3, PNG), pictures.read("gop30", 3, PNG))
    assert dataset.extract(first, stage_version=2)["computed_frames"] == 2


def test_a_kill_costs_only_the_item_at_hand(dataset, monkeypatch):
    requests = [FrameRequest("gop30", frame, PNG) for frame in (1, FRAMES_PER_ITEM + 1, 2 * FRAMES_PER_ITEM + 1)]
    requests += [FrameRequest("gop250", 4, PNG)]
    real, calls = pick_frames, []

    def killed(path, wanted, **options):
        for position, picture in real(path, wanted, **options):
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(position)
            yield position, picture

    monkeypatch.setattr(extracted_frames, "pick_frames", killed)
    with pytest.raises(KeyboardInterrupt):
        dataset.extract(requests)
    assert not dataset.index.exists()
    asked = []
    monkeypatch.setattr(
        extracted_frames,
        "pick_frames",
        lambda path, wanted, **more: (asked.extend(wanted), real(path, wanted, **more))[1],
    )
    assert dataset.extract(requests)["computed_frames"] == 1
    assert asked == [2 * FRAMES_PER_ITEM + 1]
    with pytest.raises(ResumableStop):
        dataset.extract(requests, should_stop=lambda: True)


def test_a_damaged_item_is_found_and_mended(dataset):
    requests = [FrameRequest("gop30", frame, PNG) for frame in (10, 400)]
    dataset.extract(requests)
    with ExtractedFrames(dataset.index) as pictures:
        data, expected = pictures.encoded("gop30", 400, PNG), pictures.read("gop30", 400, PNG)
    store = dataset.work / "pictures.lmdb"
    content = bytearray(store.read_bytes())
    content[content.find(data) + len(data) // 2] ^= 1
    store.write_bytes(content)
    with ExtractedFrames(dataset.index) as pictures:
        pictures.read("gop30", 10, PNG)
        with pytest.raises(DamagedError):
            pictures.read("gop30", 400, PNG)
    assert dataset.extract(requests)["computed_frames"] == 1
    with ExtractedFrames(dataset.index) as pictures:
        assert np.array_equal(pictures.read("gop30", 400, PNG), expected)


def test_what_cannot_be_had_is_refused_before_anything_is_decoded(dataset, folder, tmp_path):
    for request, said in (
        (FrameRequest("gop30", FRAMES, PNG), f"gop30.*frame {FRAMES} is asked for.*0 to {FRAMES - 1}"),
        (FrameRequest("nobody", 0, PNG), "nobody.*no such video"),
        (FrameRequest("gop250", 5, FrameTransform(crop=(90, 0, 10, 10))), "gop250.*crop.*frame 5.*leaves the picture"),
    ):
        with pytest.raises(InputError, match=said):
            dataset.extract([request])
    (tmp_path / "broken.mp4").write_bytes((folder / "gop30.mp4").read_bytes()[:9000])
    broken = Dataset(folder, tmp_path, [str(tmp_path / "broken.mp4")])
    with pytest.raises(VideoError, match=r"broken.*cannot be used"):
        broken.extract([FrameRequest("broken", 0, PNG)])


def test_an_index_of_something_else_is_refused(dataset, tmp_path):
    with WorkStores(tmp_path / "other", "one", "lmdb") as store:
        store.put("key", {"features": np.zeros(3)})
        write_shard_index(store, ["key"], tmp_path / "features.json")
    with pytest.raises(StoreError, match="not an index of extracted frames"):
        ExtractedFrames(tmp_path / "features.json")
    assert dataset.extract([])["items"] == 0
    assert json.loads(dataset.index.read_text())["stores"]
    with ExtractedFrames(dataset.index) as pictures:
        assert pictures.videos() == []
