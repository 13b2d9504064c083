"""Weights from files: formats, hostile pickles, key maps and the report."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sightline.assets.checkpoints import (
    Drop,
    Duplicate,
    KeyMap,
    KeyReport,
    Merge,
    Rename,
    Resize,
    Split,
    StripPrefix,
    load_into,
    map_keys,
    read_state_dict,
)
from sightline.errors import CheckpointError
from torch import nn

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Settings:
    """A class that a reader of the file does not know."""

    def __init__(self) -> None:
        self.depth = 3


class Hostile:
    """Pickles as a call of an arbitrary function."""

    def __init__(self, marker: Path, function) -> None:
        self.marker, self.function = marker, function

    def __reduce__(self):
        return self.function, (str(self.marker),)


def touch(path: str) -> None:
    Path(path).touch()


class Touch:
    """A class that does something when it is made."""

    def __init__(self, path: str) -> None:
        Path(path).touch()


def assert_same(found: dict) -> None:
    assert set(found) == set(STATE)
    for name, tensor in STATE.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_bare_and_wrapped(tmp_path, wrapper, zipped):
    path = tmp_path / "state_dict.pth.tar"
    content = STATE if wrapper is None else {"epoch": 3, "optimizer": {"lr": 0.1}, wrapper: STATE}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(path))


def test_safetensors_single_sharded_and_folder(tmp_path):
    save_file(STATE, tmp_path / "one.safetensors")
    assert_same(read_state_dict(tmp_path / "one.safetensors"))
    folder = tmp_path / "sharded"
    folder.mkdir()
    weight_map = {}
    for number, (name, tensor) in enumerate(STATE.items()):
        save_file({name: tensor}, folder / f"part-{number}.safetensors")
        weight_map[name] = f"part-{number}.safetensors"
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_same(read_state_dict(folder))
    index.write_text(json.dumps({"weight_map": {**weight_map, "b": "part-0.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"none of its files: b"):
        read_state_dict(folder)
    index.write_text(json.dumps({"weight_map": {"b": "../one.safetensors"}}))
    with pytest.raises(CheckpointError, match="plain file name"):
        read_state_dict(folder)


def test_damaged_and_empty_files_are_named(tmp_path):
    torch.save(STATE, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    torch.save({"epoch": 1}, tmp_path / "no_tensors.pt")
    (tmp_path / "text.pt").write_text("<html>not found</html>")
    for name in ("cut.pt", "cut.safetensors", "no_tensors.pt", "text.pt", "absent.pt"):
        with pytest.raises(CheckpointError) as caught:
            read_state_dict(tmp_path / name)
        assert name in str(caught.value)
        assert "->" in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_classes_become_inert(tmp_path, zipped):
    path = tmp_path / "foreign.pt"
    content = {"state_dict": STATE, "args": Settings(), "where": Path("x"), "names": {"a", "b"}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_state_dict(path))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["system", "own_function", "eval", "exec_class"])
def test_hostile_pickles_execute_nothing(tmp_path, name, zipped):
    import os

    marker = tmp_path / "executed"
    functions = {"system": os.mkdir, "own_function": touch, "eval": eval, "exec_class": Touch}
    argument = f"__import__('pathlib').Path({str(marker)!r}).touch()" if name == "eval" else marker
    path = tmp_path / "hostile.pt"
    payload = {"state_dict": STATE, "args": Hostile(argument, functions[name])}
    torch.save(payload, path, _use_new_zipfile_serialization=zipped)
    if name == "exec_class":  # a class is answered by an empty object, and its code never runs
        assert_same(read_state_dict(path))
    else:
        with pytest.raises(CheckpointError, match="running code"):
            read_state_dict(path)
    assert not marker.exists()


def test_hostile_plain_pickle_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(Hostile(marker, touch)))
    with pytest.raises(CheckpointError):
        read_state_dict(path)
    assert not marker.exists()


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "script.pt"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state_dict(path)


def test_report_lists_missing_left_over_and_mismatched():
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2, bias=False)})
    before = module["a"].weight.clone()
    state = {
        "module.a.weight": torch.zeros(2, 3),
        "module.a.bias": torch.zeros(5),
        "module.c": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        load_into(module, state, KeyMap((StripPrefix("module."),)), file="x.pt")
    text = str(caught.value)
    assert "x.pt" in text
    assert "tensors missing (1): b.weight" in text
    assert "tensors left over (1): module.c" in text
    assert "a.bias is [5], expected [2]" in text
    assert torch.equal(module["a"].weight, before), "a refused file must not change the module"


def test_allowed_patterns_and_dtype():
    module = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(2, 2, bias=False)})
    report = load_into(
        module,
        {**STATE, "lora.A": torch.zeros(1)},
        KeyMap(),
        allow_missing=(r"b\..*",),
        allow_left_over=(r"lora\..*",),
        dtype=torch.bfloat16,
    )
    assert module["a"].weight.dtype == torch.bfloat16
    assert report.to_json()["missing"] == ["b.weight"]
    assert report.to_json()["left_over"] == ["lora.A"]
    json.dumps(report.to_json())


def test_rules_rename_drop_split_merge_resize():
    packed = torch.arange(24.0).reshape(12, 2)  # 2 groups of (2 q rows, 2 k rows, 2 v rows)
    state = {
        "net.qkv": packed,
        "net.gate": torch.zeros(2, 2),
        "net.up": torch.ones(2, 2),
        "net.inv_freq": torch.zeros(1),
        "net.emb": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    }
    shapes = {"q": (4, 2), "k": (4, 2), "v": (4, 2), "gate_up": (4, 2), "emb": (3, 2)}
    keymap = KeyMap(
        (
            Rename(r"^net\.", ""),
            Drop(r".*inv_freq", "recomputed"),
            Split(r"qkv", ("q", "k", "v"), sizes=(2, 2, 2), groups=2),
            Merge(r"gate", ("up",), "gate_up"),
            Resize(r"emb"),
        )
    )
    fitting, report = map_keys(state, keymap, shapes)
    report.require()
    assert torch.equal(fitting["q"], packed[[0, 1, 6, 7]])
    assert torch.equal(fitting["v"], packed[[4, 5, 10, 11]])
    assert fitting["gate_up"].sum() == 4
    assert torch.equal(fitting["emb"][2], torch.tensor([2.0, 3.0]))
    assert report.reshaped == {"emb": [[2, 2], [3, 2]]}
    assert report.dropped == {"net.inv_freq": "recomputed"}
    assert report.used_sources == set(state) - {"net.inv_freq"}


def test_position_grid_is_interpolated():
    grid = torch.ones(1, 1 + 4 * 4, 3)
    fitting, report = map_keys({"pos": grid}, KeyMap((Resize("pos", "grid"),)), {"pos": (1, 1 + 6 * 6, 3)})
    report.require()
    assert torch.allclose(fitting["pos"], torch.ones(1, 37, 3))


def test_duplicates_must_agree_and_can_stand_in():
    rule = KeyMap((Duplicate("copy", "own"),))
    one, two = torch.ones(2), torch.zeros(2)
    fitting, report = map_keys({"copy": two, "own": one}, rule, {"own": (2,)})
    assert torch.equal(fitting["own"], one)
    assert report.used == {"own": ["own", "copy"]}
    assert report.notes == ["copy differs from own; the latter is used"]
    fitting, report = map_keys({"copy": two}, rule, {"own": (2,)})
    assert torch.equal(fitting["own"], two)


def test_two_layouts_in_one_file_are_refused():
    with pytest.raises(CheckpointError, match="both lead to"):
        map_keys({"module.a": torch.ones(1), "a": torch.ones(1)}, KeyMap((StripPrefix("module."),)), {"a": (1,)})


def test_meta_device_needs_no_memory():
    with torch.device("meta"):
        module = nn.Linear(200_000, 200_000)
        state = {"weight": torch.empty(200_000, 200_000), "bias": torch.empty(200_000)}
    report = load_into(module, state, KeyMap(), dtype=torch.bfloat16)
    assert len(report.used) == 2
    assert module.weight.is_meta


def test_summary_names_what_was_not_used():
    report = KeyReport(used={"a": ["a"]}, missing=["b"], left_over=["lm_head.lora_A"], notes=["LoRA merged"])
    line = report.summary()
    assert line.startswith("1 tensors used; 1 missing (b); 1 left over (lm_head.lora_A); 0 of another shape")
    assert line.endswith("LoRA merged")
