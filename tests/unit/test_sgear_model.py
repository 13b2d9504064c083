"""S-GEAR's model: both generations of names, batches of any size, prototypes chosen per sample, clear refusals."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from sightline.errors import CheckpointError, ConfigError, InputError
from sightline.systems.sgear.model.config import SgearConfig, VitConfig
from sightline.systems.sgear.model.cosine import cosine
from sightline.systems.sgear.model.loader import load_partial, load_sgear, load_vit, save_sgear
from sightline.systems.sgear.model.sgear import Sgear, fit_width
from sightline.systems.sgear.model.tca import summed_over_past
from sightline.training.state import write_torch

from tests.unit.sgear_tiny import CLASSES, DIM, FRAMES, WIDTH, config, random_model, vit_config


def features(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, FRAMES, DIM, generator=torch.Generator().manual_seed(seed))


def frames(batch: int, *crops: int) -> torch.Tensor:
    return torch.randn(batch, FRAMES, *crops, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors as the code of the paper's runs named them, with what transformers 4 added."""
    new = {"vis_prototypes": "org_gamma", "ProtAttn": "CrossModAttn", "TCA": "TimeShift"}
    renamed = {re.sub(r"^\w+", lambda found: new.get(found[0], found[0]), name): one for name, one in state.items()}
    block = "future_predictor.gpt_model.h.0.attn."
    renamed[block + "bias"] = torch.ones(1, 1, 8, 8)
    renamed[block + "masked_bias"] = torch.tensor(-1e4)
    return {f"module.{name}": one for name, one in renamed.items()}


def test_both_generations_of_names_load(tmp_path):
    model = random_model(vit_config())
    state = model.state_dict()
    save_sgear(model, tmp_path / "new.pth")
    write_torch(tmp_path / "old.pth", {"model": old_names(state), "epoch": 3})
    wide = replace(vit_config(), classes=FRAMES, verbs=None, nouns=None)  # the file says how many classes there are
    new, report = load_sgear(tmp_path / "new.pth", wide)
    old, old_report = load_sgear(tmp_path / "old.pth", wide, classes=CLASSES)
    assert not report.missing + report.left_over
    assert sorted(old_report.dropped) == [
        "module.future_predictor.gpt_model.h.0.attn.bias",
        "module.future_predictor.gpt_model.h.0.attn.masked_bias",
    ]
    assert old_report.used["vis_prototypes"] == ["module.org_gamma"]
    for name, one in state.items():
        assert torch.equal(new.state_dict()[name], one), name
        assert torch.equal(old.state_dict()[name], one), name
    video = frames(2)
    assert torch.equal(new(video).logits, model(video).logits)
    assert not new.training


def test_missing_and_left_over_keys_are_named(tmp_path):
    state = dict(random_model(config()).state_dict())
    del state["ProtAttn.gate"]
    state["regression_head.weight"] = torch.zeros(2)
    write_torch(tmp_path / "odd.pth", {"model": state})
    with pytest.raises(CheckpointError, match=r"missing \(1\): ProtAttn.gate.*left over \(1\): regression_head.weight"):
        load_sgear(tmp_path / "odd.pth", config())
    save_sgear(random_model(config()), tmp_path / "good.pth")
    with pytest.raises(CheckpointError, match="9 actions, but the dataset has 12"):
        load_sgear(tmp_path / "good.pth", config(), classes=12)
    with pytest.raises(CheckpointError, match="another shape"):
        load_sgear(tmp_path / "good.pth", config(frames=5))
    write_torch(tmp_path / "other.pth", {"model": {"weight": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"no classifiers\.action\.weight"):
        load_sgear(tmp_path / "other.pth", config())


def test_part_of_a_checkpoint_starts_a_feature_run(tmp_path):
    source = random_model(vit_config(), 1)
    write_torch(tmp_path / "vit.pth", {"model": old_names(source.state_dict())})
    model = random_model(config(), 2)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    report = load_partial(model, tmp_path / "vit.pth", ["CrossModAttn", "future_predictor", "classifier", "nothing"])
    assert report.notes == ["nothing names no tensor that fits"]
    for name, one in model.state_dict().items():
        taken = any(word in name for word in ("ProtAttn", "future_predictor", "classifier"))
        assert (name in report.used) == taken
        assert torch.equal(one, source.state_dict()[name] if taken else before[name]), name
    with pytest.raises(CheckpointError, match="no tensor of the file fits"):
        load_partial(random_model(config()), tmp_path / "vit.pth", ["backbone"])


def test_published_vit_weights_load_and_positions_are_resized(tmp_path):
    model = random_model(vit_config())
    published = random_model(replace(vit_config(), vit=VitConfig(16, 4, WIDTH, 1, 1.0))).backbone.model.state_dict()
    published |= {"head.weight": torch.zeros(3, WIDTH), "head.bias": torch.zeros(3)}
    write_torch(tmp_path / "vit.pth", dict(published))
    report = load_vit(model, tmp_path / "vit.pth")
    assert report.reshaped == {"pos_embed": [[1, 17, WIDTH], [1, 5, WIDTH]]}
    assert sorted(report.dropped) == ["head.bias", "head.weight"]
    assert torch.equal(model.backbone.model.pos_embed[:, 0], published["pos_embed"][:, 0])
    assert torch.equal(model.backbone.model.blocks[0].attn.qkv.bias, published["blocks.0.attn.qkv.bias"])
    with pytest.raises(CheckpointError, match="stored features"):
        load_vit(random_model(config()), tmp_path / "vit.pth")


@pytest.mark.parametrize("changes", [{}, {"mean_representation": False}, {"prototype_attention": False}])
def test_a_sample_alone_gets_what_it_gets_in_a_batch(changes):
    model = random_model(config(**changes))
    video = features(5)
    together = model(video)
    for row in range(5):
        alone = model(video[row : row + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.past_logits[0], together.past_logits[row], atol=1e-5, rtol=1e-5)
    without = model(video, with_past=False)
    assert torch.equal(without.logits, together.logits)
    assert without.past_logits is None


def test_the_original_mixing_depends_on_batch_mates():
    video = features(3)
    mixed, own = (random_model(config(token_mixing=how)) for how in ("original", "per_sample"))
    difference = (mixed(video).logits - own(video).logits).abs().amax(dim=1)
    assert difference.max().item() > 1e-3
    torch.testing.assert_close(mixed(video[:1]).logits, own(video[:1]).logits)


def test_crops_are_averaged():
    model = random_model(vit_config())
    video = frames(2, 3)
    each = [model(video[:, :, crop]) for crop in range(3)]
    for name in ("logits", "past_logits", "similarities", "feature_errors"):
        mean = torch.stack([getattr(one, name) for one in each]).mean(dim=0)
        torch.testing.assert_close(getattr(model(video), name), mean)


def test_prototypes_are_chosen_best_first_and_injected_ones_win():
    model = random_model(config())
    with torch.no_grad():
        model.vis_prototypes[5] = model.vis_prototypes[2]  # equals: the lower class comes first
    similarity, chosen = model.select(torch.randn(1, WIDTH), model.vis_prototypes, CLASSES)
    ranked = chosen[0].tolist()
    assert ranked.index(5) == ranked.index(2) + 1
    assert similarity[0, ranked].tolist() == sorted(similarity[0].tolist(), reverse=True)
    video = features(1)
    assert torch.equal(model(video).logits, model(video, chosen=[seen_own(model, video)]).logits)
    assert not torch.equal(model(video).logits, model(video, chosen=[torch.zeros(1, FRAMES, dtype=torch.long)]).logits)


def seen_own(model: Sgear, video: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def keep(_module: object, _given: object, made: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen.append(made[1])

    handle = model.select.register_forward_hook(keep)
    model(video)
    handle.remove()
    return seen[0]


def test_cosine_is_torchs():
    x, table = torch.randn(3, 7, 12), torch.randn(11, 12)
    x[0, 0], table[4] = 0.0, 0.0
    expected = torch.nn.CosineSimilarity(dim=-1)(x[..., None, :], table)
    torch.testing.assert_close(cosine(x, table), expected, atol=1e-6, rtol=1e-6)


def test_the_sum_over_the_past_has_the_published_gradient():
    x = torch.randn(2, 3, 4, requires_grad=True)
    weights = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    made = summed_over_past(x, weights)
    torch.testing.assert_close(made[:, 2], 0.5 * x[:, 0] - x[:, 1] + 2 * x[:, 2])
    made.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    torch.testing.assert_close(weights.grad, x.detach().sum(dim=(0, 2)) * torch.tensor([3.0, 2.0, 1.0]))


def test_text_prototypes_bring_in_language():
    model = random_model(vit_config(prototype_values="text"))
    text = torch.randn(CLASSES, WIDTH)
    video = frames(1)
    assert not torch.equal(model(video, text=text).logits, model(video, text=-text).logits)
    torch.testing.assert_close(
        model(video, text=model.vis_prototypes.detach()).logits, random_model(vit_config())(video).logits
    )
    with pytest.raises(InputError, match="needs language vectors"):
        model(video)


def test_prototypes_of_another_width_are_resized():
    table = torch.randn(CLASSES, 32)
    model = random_model(config())
    model.set_prototypes(table)
    expected = torch.nn.functional.interpolate(
        table[None, None], size=(CLASSES, WIDTH), mode="bilinear", align_corners=False
    )
    assert torch.equal(model.vis_prototypes.detach(), expected[0, 0])
    assert fit_width(table, 32) is table
    with pytest.raises(InputError, match="for 9 classes"):
        model.set_prototypes(torch.zeros(3, WIDTH))


def test_wrong_shapes_and_settings_are_refused():
    with pytest.raises(InputError, match=r"shape \[2, 4, 3\], expected \[B, 4, 10\]"):
        random_model(config())(torch.zeros(2, 4, 3))
    with pytest.raises(InputError, match=r"expected \[B, 4, \(crops,\) 3, 8, 8\]"):
        random_model(vit_config())(torch.zeros(2, 4, 3, 9, 9))
    with pytest.raises(ConfigError, match="no multiple of 64"):
        config(width=50)
    with pytest.raises(ConfigError, match="must be equal"):
        config(vit=VitConfig(8, 4, 128, 1))
    with pytest.raises(ConfigError, match="tca_blocks need raw frames"):
        config(tca_blocks=1)
    with pytest.raises(ConfigError, match="there are 3 classes"):
        config(classes=3)
    made = SgearConfig.from_settings({"classes": 40, "decoder": {"width": 32}, "vit": None, "windows": 3})
    assert (made.decoder.width, made.vit) == (32, None)
