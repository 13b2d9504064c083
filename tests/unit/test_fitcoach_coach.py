"""Coaching one video: the benchmark's tokens, subtitles and captions, and files that cannot be coached."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from sightline.cli import main
from sightline.errors import InputError, NonFiniteError, VideoError
from sightline.systems.fitcoach.coach import session_json, write_captioned
from sightline.systems.fitcoach.extract import extract_video, iter_features
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.stream_vlm import StreamVlm, random_stream_vlm
from sightline.systems.fitcoach.pictures import ExtractorSettings
from sightline.systems.fitcoach.session import Coach, Session, open_video
from sightline.systems.fitcoach.stream import ActionTokens, StreamRequest, StreamSettings, extract_feedbacks, stream
from sightline.video.captions import Caption, CaptionPainter, shown_at, timed_captions, to_webvtt
from sightline.video.decode import iter_frames, scan_video

ROOT = Path(__file__).parents[2]
ACTIONS = ActionTokens(vision=60, answer=61, end=62)
EXTRACTOR = ExtractorSettings()
PROMPT = "Coach."
UNTRAINED = ("--weights-variant", "demo_untrained")
CONFIG = StreamVlmConfig.from_parts(
    {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
    },
    {"adapter_insert_layers": "[0, 2]", "num_of_xattn_heads": 2, "vision_dim": 12, "attn_dim": 16},
    None,
)


class Letters:
    """A tokenizer of one letter per id."""

    size = 64

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Returns one id per letter, and the id of `<vision>`."""
        return [1] * bos + [3 + ord(letter) % 50 for letter in text.removesuffix("<vision>")] + [ACTIONS.vision]

    def decode(self, ids) -> str:
        """Returns one letter per id."""
        return "".join(chr(64 + number) for number in ids)

    def token_id(self, token: str) -> int:
        """Returns the id of an action token."""
        return {"<vision>": 60, "<answer>": 61, "<answer/>": 62}[token]


@cache
def model() -> StreamVlm:
    return random_stream_vlm(CONFIG, 1, std=0.5)


def small_cnn(frames: torch.Tensor, state):
    """Maps [4k, 3, 224, 160] to [k, 12, 3, 2]: what a step's frames look like, and a memory of those before."""
    steps = torch.nn.functional.adaptive_avg_pool2d(frames, (3, 2)).reshape(-1, 12, 3, 2)
    remembered = torch.zeros_like(steps[:1]) if state is None else state
    found = []
    for step in steps:
        remembered = 0.5 * remembered + step[None]
        found.append(3 * remembered)
    return torch.cat(found), remembered


def coach(loop: str = "published", **settings) -> Coach:
    stream_settings = StreamSettings(dtype="float32", loop=loop, token_cap=300, max_feedback_length=6, **settings)
    return Coach(model(), Letters(), stream_settings, small_cnn, EXTRACTOR, "cpu")


def talkative(seed: int = 3):
    """Returns a bias under which the model begins to speak at every eighth token and ends three later."""
    table = np.random.default_rng(seed).normal((0, -20, 0), 3.0, (900, 3))
    table[seed::8, 1] += 60
    table[seed + 3 :: 8, 2] += 60
    return lambda k: table[k].tolist()


def make_video(path: Path, *options: str, size: str = "96x64", rate: int = 25, seconds: float = 6.0) -> Path:
    pattern = "testsrc" if "png" in options else "testsrc2"  # the second draws no odd sizes
    source = f"{pattern}=size={size}:rate={rate}:duration={seconds}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *options, str(path)]
    subprocess.run(command, check=True)
    return path


def turned_copy(path: Path, target: Path, degrees: int) -> Path:
    """Copies a video into a file that asks players to turn it."""
    with av.open(str(path)) as source, av.open(str(target), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(degrees)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("videos") / "clip.mp4")


def watched(path: Path, one: Coach, seed: int = 3) -> Session:
    session = Session(open_video(path, EXTRACTOR), PROMPT)
    said = list(one.watch(session, talkative(seed)))
    assert said == session.said
    return session


# ------------------------------------------------------------------------------- the benchmark's own path
@pytest.mark.parametrize("loop", ["published", "realtime"])
@pytest.mark.parametrize("seed", range(3))
def test_live_tokens_are_those_of_a_batch(clip, loop, seed):
    one = coach(loop)
    session = watched(clip, one, seed)
    video = session.video
    found = extract_video(clip, video.times_s, EXTRACTOR, small_cnn, rotate=False)
    prompt = Letters().encode(PROMPT + "<vision>")
    others = [StreamRequest(prompt, found.features[: 3 + k], bias=talkative(k)) for k in range(3)]
    asked = StreamRequest(prompt, found.features, bias=talkative(seed))
    batch = stream(model(), [*others, asked], replace(one.stream, look_ahead=16), ACTIONS)[-1]
    assert session.tokens == batch.tokens
    assert (session.warnings, session.near_ties) == (batch.warnings, batch.near_ties)
    texts, times = extract_feedbacks(batch.tokens, Letters(), ACTIONS)
    assert [one.text for one in session.said] == texts
    assert [one.time for one in session.said] == times
    assert len(texts) > 2, "a test in which nobody speaks shows nothing"


def test_feedbacks_come_while_the_video_runs(clip):
    session = Session(open_video(clip, EXTRACTOR), PROMPT)
    steps_when_said = [len(session.step_times_s) for _ in coach().watch(session, talkative())]
    assert steps_when_said[0] < session.video.steps / 2
    assert steps_when_said == sorted(steps_when_said)
    assert len(session.step_times_s) == session.video.steps == len(session.cnn_s) == len(session.model_s)
    for said, step in zip(session.said, steps_when_said, strict=True):
        assert 0 < said.video_s <= session.step_times_s[step - 1]
    latency = session.latency_ms()
    assert set(latency) == {"step", "cnn", "language_model"}
    assert all(0 < part["median"] <= part["p95"] for part in latency.values())


def test_features_step_by_step_are_those_of_the_whole(clip):
    times = scan_video(clip)[1]
    whole = extract_video(clip, times, EXTRACTOR, small_cnn)
    for chunk in (4, 12):
        steps = list(iter_features(clip, times, replace(EXTRACTOR, chunk_frames=chunk), small_cnn))
        assert np.array_equal(np.stack([features for features, _ in steps]), whole.features)
        assert [time for _, time in steps] == whole.timestamps.tolist()


def test_a_feature_that_is_not_finite_stops_the_session(clip):
    def broken(frames, state):
        return torch.full((len(frames) // 4, 12, 3, 2), float("nan")), state

    with pytest.raises(NonFiniteError, match="feature step 0"):
        list(replace(coach(), cnn=broken).watch(Session(open_video(clip, EXTRACTOR), PROMPT)))


def test_timestamps_beside_a_video_are_its_clock(tmp_path):
    path = make_video(tmp_path / "0042.mp4", seconds=4)
    assert not open_video(path, EXTRACTOR).turned, "only QEVD's numbers tell that a video lies on its side"
    stamps = tmp_path / "0042_timestamps.npy"
    np.save(stamps, 1.6e18 + np.arange(100) * 1e9 / 12.5)
    video = open_video(path, EXTRACTOR)
    assert video.seconds == pytest.approx(99 / 12.5)
    assert (video.turned, video.steps) == (True, 25)
    np.save(stamps, 1.6e18 + np.arange(99) * 1e9)
    with pytest.raises(VideoError, match="100 frames decoded, but 99 timestamps"):
        open_video(path, EXTRACTOR)


# --------------------------------------------------------------------------------------------- what is written
def test_captions_last_until_read_or_replaced():
    captions = timed_captions([(0.0, "a"), (1.0, "b"), (1.0, "c"), (1.2, "d"), (9.0, "e" * 100)])
    assert [(one.start_s, one.end_s) for one in captions] == [(0, 1), (1, 1.5), (1, 1.5), (1.2, 4.2), (9, 15)]
    assert shown_at(captions, 1.3) == "b\nc\nd"
    assert shown_at(captions, 5.0) == ""


def test_webvtt_is_read_back_by_another_program(tmp_path):
    texts = ["Keep going & don't stop!", "a <b> --> c\n\n\x1bsecond\x00", "   ", "Rücken gerade"]
    captions = [Caption(3599.5 + k, 3600.25 + k, text) for k, text in enumerate(texts)]
    path = tmp_path / "said.vtt"
    path.write_text(to_webvtt(captions), encoding="utf-8")
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        cues = [(float(p.pts * p.time_base), float(p.duration * p.time_base), bytes(p).decode()) for p in packets]
    assert [(start, length) for start, length, _ in cues] == [(3599.5 + k, 0.75) for k in range(4)]
    assert cues[0][2] == "Keep going &amp; don't stop!"
    assert cues[1][2] == "a &lt;b&gt; --&gt; c second"
    assert cues[3][2] == texts[3]
    assert to_webvtt([]) == "WEBVTT\n"


@pytest.mark.parametrize(("size", "rotation", "shape"), [("96x64", 0, (64, 96)), ("95x63", 90, (96, 64))])
def test_the_captioned_copy_has_every_frame_upright(tmp_path, size, rotation, shape):
    path = make_video(tmp_path / "plain.mov", "-c:v", "png", "-pix_fmt", "rgb24", size=size, rate=30, seconds=5)
    if rotation:
        path = turned_copy(path, tmp_path / "turned.mov", rotation)
    session = watched(path, coach())
    target = tmp_path / "said.mp4"
    assert write_captioned(session, target, EXTRACTOR) == 150
    info, times = scan_video(target)
    assert (info.frames, info.rotation, (info.height, info.width)) == (150, 0, shape)
    assert times[-1] == pytest.approx(149 / 30, abs=0.01)
    captions = session.captions()
    upright = dict(iter_frames(path, apply_rotation=True))
    for index, picture in iter_frames(target):
        plain = upright[index][: shape[0] - 4, : shape[1] - 1]
        darker = picture[-12:-4, : plain.shape[1]].mean() < 0.92 * plain[shape[0] - 12 :].mean()
        assert darker == bool(shown_at(captions, index / 30).strip()), index
    with pytest.raises(InputError, match="the video itself"):
        write_captioned(session, path, EXTRACTOR)


@pytest.mark.parametrize("size", [(50, 50), (240, 320), (1280, 720), (16, 16)])
def test_captions_fit_into_any_picture(size):
    picture = np.full((*size, 3), 200, np.uint8)
    CaptionPainter(*size).draw(picture, "Bend your knees a little more, keep your back straight! " * 4)
    assert (picture[-3:] < 200).any()
    untouched = np.full((*size, 3), 200, np.uint8)
    CaptionPainter(*size).draw(untouched, " \n ")
    assert (untouched == 200).all()


def test_json_says_all(clip):
    one = coach()
    row = json.loads(json.dumps(session_json(watched(clip, one), one)))
    assert row["feedbacks"]
    assert set(row["feedbacks"][0]) == {"text", "time", "video_s"}
    assert row["tokens"][: len(PROMPT) + 2] == Letters().encode(PROMPT + "<vision>")
    assert row["feature_steps"] == 24


# ------------------------------------------------------------------------------------- files and commands
def damaged(folder: Path, kind: str) -> Path:
    if kind == "missing":
        return folder / "nothing.mp4"
    if kind == "text":
        (folder / "text.mp4").write_text("not a video\n" * 100)
        return folder / "text.mp4"
    if kind == "short":
        return make_video(folder / "short.mp4", seconds=0.1)
    if kind == "sound":
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", str(folder / "sound.m4a")]
        subprocess.run(command, check=True)
        return folder / "sound.m4a"
    if kind == "ten_bit":
        return make_video(folder / "ten.mp4", "-c:v", "libx264", "-pix_fmt", "yuv420p10le", seconds=1)
    whole = make_video(folder / "cut.mp4", "-movflags", "+faststart").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.mp4"


@pytest.mark.parametrize("kind", ["missing", "text", "short", "sound", "ten_bit", "cut"])
def test_what_cannot_be_coached_is_refused_in_one_line(tmp_path, capsys, kind):
    path = damaged(tmp_path, kind)
    targets = [tmp_path / name for name in ("o.json", "o.vtt", "o.mp4")]
    options = ["--json", str(targets[0]), "--vtt", str(targets[1]), "--mp4", str(targets[2])]
    with pytest.raises(SystemExit) as ended:
        main(["coach", str(path), "--exercise", "squats", "--config", str(ROOT / "config"), *options])
    output = capsys.readouterr()
    assert ended.value.code == 1
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert output.err.startswith(f"error: {path}: ")
    assert not any(target.exists() for target in targets)


def test_wrong_requests_are_refused(clip, tmp_path, capsys):
    def refused(*options: str) -> str:
        command = ["coach", str(clip), "--exercise", "squats", "--config", str(ROOT / "config"), *options]
        with pytest.raises(SystemExit) as ended:
            main([*command, "--results", str(tmp_path / "none")])
        assert ended.value.code == 1
        return capsys.readouterr().err

    assert "run `make demo` first" in refused()
    assert "llama2_7b/asset.json` with your --configfile" in refused("--weights-variant", "stream_vlm")
    assert "use one of demo" in refused("--weights-variant", "dmeo")
    assert "the video itself" in refused("--mp4", str(clip))
    assert "cannot be written" in refused("--json", str(tmp_path))
    assert "cannot be written" in refused("--vtt", str(clip / "said.vtt"))
    assert "two outputs" in refused("--vtt", str(tmp_path / "o"), "--json", str(tmp_path / "o"))
    assert "no name" in refused("--exercise", " ")
    over = tmp_path / "over.yaml"
    over.write_text("limits: {samples: none}\n")
    assert "limits.samples" in refused("--configfile", str(over))


def test_the_command_coaches_with_the_demo_weights(tmp_path, capsys):
    from sightline.config.load import read_config
    from sightline.registry import load_plan
    from sightline.run.stages import acquire_asset
    from sightline.systems.fitcoach.demo_weights import write_demo_weights

    content = tmp_path / "content"
    write_demo_weights(content, seed=0)
    plan = load_plan(read_config([ROOT / "config" / "config.yaml"]), ROOT / "config")
    card = {**plan.flow.assets["fitcoach_demo"].model_dump(mode="json"), "kind": "folder", "requires": ["config.json"]}
    record = tmp_path / "results/assets/fitcoach_demo/asset.json"
    acquire_asset(
        asset="fitcoach_demo", card=card, local=str(content), generated_parts=None, offline=True, record=record
    )
    path = make_video(tmp_path / "clip.mov", seconds=1.5)
    targets = {name: tmp_path / f"said.{name}" for name in ("json", "vtt", "mp4")}
    options = [word for name, target in targets.items() for word in (f"--{name}", str(target))]
    common = ["--config", str(ROOT / "config"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    main([*("coach", str(path), "--exercise", "squats", "--loop", "realtime"), *UNTRAINED, *common, *options])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "squats in clip.mov: 1.5 s, 6 feature steps; demo_untrained on cpu, loop realtime"
    assert any("latency per feature step (one every 250 ms): median" in line for line in lines)
    assert lines[-3:] == [f"written: {target}" for target in targets.values()]
    row = json.loads(targets["json"].read_text())
    assert row["prompt"].endswith("The user should be doing squats.")
    assert scan_video(targets["mp4"])[0].frames == scan_video(path)[0].frames
    assert targets["vtt"].read_text().startswith("WEBVTT\n")
