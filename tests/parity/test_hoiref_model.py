"""VLM4HOI against the original's tower, prompts, loss, gradients, generation and keys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import load_json
from hoiref_data import SYSTEM, arrays
from hoiref_model import StubTokenizer, facts, golden_files, golden_model, golden_shapes
from sightline.assets.checkpoints import KeyMap, Resize, map_keys
from sightline.errors import InputError
from sightline.systems.hoiref.dialogue import (
    IGNORED,
    RowLimits,
    answer_text,
    collate_turns,
    marks_of,
    question_ids,
    segment_ids,
    turn_ids,
)
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.loader import checkpoint_state, genuine_state_dict
from sightline.systems.hoiref.model.vlm4hoi import IMAGE_TOKEN
from sightline.systems.hoiref.questions import Conversation, evaluation_prompt
from sightline.systems.hoiref.train import mean_loss

TOLERANCE = 1e-4
VISION = arrays("model", "vision.npz")
GRIDS = arrays("model", "pos_embed_interp.npz")
CASES = load_json(SYSTEM, "model", "train_cases.json") or []
GENERATED = load_json(SYSTEM, "model", "generate.json") or []
SEGMENTS = load_json(SYSTEM, "model", "prompt_segments_ids.json") or []
KEYS = pytest.mark.parametrize("whole", [pytest.param(True, id="hoiref-keys")] if golden_shapes() else [])


def close(found: torch.Tensor, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert tuple(found.shape) == wanted.shape
    assert np.abs(found.detach().float().numpy() - wanted).max() < tolerance


@pytest.mark.parametrize("name", [name for name in VISION if name != "image"], ids=lambda name: f"hoiref-{name}")
@torch.no_grad()
def test_tower(name):
    model, images = golden_model(), torch.from_numpy(VISION["image"])
    seen: dict[str, torch.Tensor] = {}
    tower = model.visual_encoder
    handles = [
        tower.patch_embed.register_forward_hook(lambda _, __, out: seen.update(patch_embed=out)),
        tower.blocks[0].register_forward_hook(lambda _, given, __: seen.update(block0_in=given[0])),
    ]
    for index, block in enumerate(tower.blocks):
        handles.append(block.register_forward_hook(lambda _, __, out, n=index: seen.update({f"block{n}_out": out})))
        handles.append(
            block.attn.register_forward_hook(lambda _, __, out, n=index: seen.update({f"block{n}_attn_out": out}))
        )
    try:
        merged = model.encode(images)
    finally:
        for handle in handles:
            handle.remove()
    seen["proj_in"], seen["proj_out"] = merged, model.llama_proj(merged)
    seen["ln_vision_out"] = model.ln_vision(seen[f"block{len(tower.blocks) - 1}_out"])
    seen["atts"] = torch.ones(merged.shape[:2])
    close(seen[name], VISION[name])


@pytest.mark.parametrize(
    "name", [name.removeprefix("in_") for name in GRIDS if name.startswith("in_")], ids=lambda name: f"hoiref-{name}"
)
def test_position_grid(name):
    wanted = GRIDS[f"out_{name}"]
    keys = KeyMap((Resize("visual_encoder.pos_embed", "grid"),))
    state = {"visual_encoder.pos_embed": torch.from_numpy(GRIDS[f"in_{name}"])}
    found, _ = map_keys(state, keys, {"visual_encoder.pos_embed": wanted.shape})
    close(found["visual_encoder.pos_embed"], wanted, 1e-5)


@KEYS
def test_keys_of_the_whole_state(whole):
    found = sorted([name, list(value.shape), str(value.dtype).removeprefix("torch.")]
                   for name, value in genuine_state_dict(golden_model()).items())  # fmt: skip
    assert found == load_json(SYSTEM, "model", "state_dict_keys.json")


@KEYS
def test_keys_of_a_checkpoint(whole):
    wanted = load_json(SYSTEM, "model", "checkpoint_content.json")["model_keys"]
    found = [[name, list(value.shape), str(value.dtype).removeprefix("torch.")]
             for name, value in sorted(checkpoint_state(golden_model()).items())]  # fmt: skip
    assert found == sorted(wanted)
    assert sorted(golden_model().trainable_names()) == load_json(SYSTEM, "model", "trainable_keys.json")


@KEYS
def test_config_of_the_folder(whole):
    folder = golden_files() / "llama"
    assert Vlm4HoiConfig.from_folder(folder).llama == golden_model().config.llama


@pytest.mark.parametrize("case", SEGMENTS, ids=lambda case: f"hoiref-{case['prompt'][30:50]}")
def test_prompt_segments(case):
    assert list(segment_ids(StubTokenizer(), case["prompt"])) == case["segment_ids"]


def rows_of(case):
    model, tokenizer = golden_model(), StubTokenizer()
    limits = RowLimits(answer=facts()["max_txt_len"])
    talks = [Conversation(n, *pair) for n, pair in enumerate(zip(case["conv_q"], case["conv_a"], strict=True))]
    return [turn_ids(tokenizer, talk, model.config.vision.tokens, limits) for talk in talks]


def stacked(rows, pad):
    width = max(map(len, rows))
    return np.array([[*row, *[pad] * (width - len(row))] for row in rows])


@pytest.mark.parametrize(
    "case", [case for case in CASES if "error" not in case], ids=lambda case: f"hoiref-{case['file']}"
)
def test_training(case):
    model, marks = golden_model(), marks_of(StubTokenizer())
    wanted, rows = arrays("model", case["file"]), rows_of(case)
    visual = model.encode(torch.from_numpy(VISION["image"][: len(rows)]))
    assert (stacked([row.answer for row in rows], marks.pad) == wanted["regress_ids"]).all()
    assert (stacked([row.targets for row in rows], IGNORED) == wanted["part_targets"]).all()
    assert (stacked([[1] * len(row.answer) for row in rows], 0) == wanted["regress_atts"]).all()
    assert (stacked([[1] * len(row.prompt) for row in rows], 0) == wanted["cond_atts"]).all()
    prompts = torch.from_numpy(stacked([row.prompt for row in rows], marks.pad))
    close(model.embeddings(prompts, visual), wanted["cond_embeds"])
    batch = collate_turns(rows, marks)
    close(model.embeddings(batch["ids"], visual), wanted["inputs_embeds"])
    assert (batch["mask"].numpy() == wanted["attention_mask"]).all()
    assert (batch["labels"].numpy() == wanted["labels"]).all()

    model.freeze()
    logits = model(batch["ids"], batch["mask"], visual)
    shown = batch["mask"][:, ::13].bool()  # what padding says depends on how it is masked, and counts nowhere
    difference = (logits[:, ::13].detach() - torch.from_numpy(wanted["logits_stride13"])).abs()[shown]
    assert difference.max() < TOLERANCE
    loss = mean_loss(logits, batch["labels"])
    assert abs(loss.item() - case["loss"]) < 1e-5
    assert abs(loss.item() - float(wanted["loss"])) < 1e-5
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    close(each.mean(dim=1), wanted["loss_none"], 1e-5)
    model.zero_grad()
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = [name for name in wanted if name.startswith("grad/")]
    assert gradients
    for name in gradients:
        close(parameters[name.removeprefix("grad/")].grad, wanted[name])
    model.zero_grad()
    model.requires_grad_(False)


@pytest.mark.parametrize(
    "number", [n for n, case in enumerate(CASES) if "error" in case], ids=lambda number: f"hoiref-case{number}"
)
def test_more_questions_than_answers(number):
    with pytest.raises(InputError, match="questions but"):
        rows_of(CASES[number])


@pytest.mark.parametrize("case", GENERATED, ids=lambda case: f"hoiref-{case['tag']}")
@torch.no_grad()
def test_prompts_and_first_logits(case):
    model, tokenizer = golden_model(), StubTokenizer()
    wanted = {
        name.partition("/")[2]: value
        for name, value in arrays("model", "generate.npz").items()
        if name.startswith(f"{case['tag']}/")
    }
    embedded = []
    for index, question, prompt in zip(case["sample_indices"], case["questions"], case["prompts"], strict=True):
        assert evaluation_prompt(question) == prompt
        shared, own = question_ids(tokenizer, question, model.config.vision.tokens)
        visual = model.encode(torch.from_numpy(VISION["image"][index : index + 1]))
        embedded.append(model.embeddings(torch.tensor([[*shared, *own]]), visual)[0])
    longest = max(map(len, embedded))
    for row, one in enumerate(embedded):
        left = longest - len(one)
        assert (wanted["attention_mask"][row] == [0] * left + [1] * len(one)).all()
        shown = wanted["embs"][row]
        if shown.shape[0] == longest:
            close(torch.cat([torch.zeros(left, one.shape[1]), one]), shown)
        else:
            close(one[: len(shown)], shown)
        close(model.llama(inputs_embeds=one[None]).logits[0, -1], wanted["first_logits"][row])


@pytest.mark.parametrize("case", GENERATED, ids=lambda case: f"hoiref-{case['tag']}")
def test_answers_from_ids(case):
    tokenizer = StubTokenizer()
    marks = marks_of(tokenizer)
    for ids, wanted in zip(case["output_ids"], case["answers"], strict=True):
        assert answer_text(tokenizer, marks, ids[1:]) == wanted
        assert IMAGE_TOKEN not in ids
