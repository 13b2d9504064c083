"""Loading VLM4HOI: what is refused, what is reported, and which other names are understood."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from sightline.errors import CheckpointError, DeviceError, InputError, NonFiniteError
from sightline.systems.hoiref.model import quantised
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.loader import checkpoint_state, load_vlm4hoi, save_checkpoint
from sightline.systems.hoiref.model.vlm4hoi import LLAMA, random_vlm4hoi

LLAMA_SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
VISION = {"image_size": 28, "width": 8, "depth": 1, "heads": 2}
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def model():
    made = random_vlm4hoi(Vlm4HoiConfig.from_parts(LLAMA_SIZES, VISION, LORA), seed=0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    return made


@pytest.fixture
def files(tmp_path, model):
    state = model.state_dict()
    trained = set(model.trainable_names())
    (tmp_path / "llama").mkdir()
    llama = {
        name.removeprefix(LLAMA).replace("lm_head.0", "lm_head"): value.clone()
        for name, value in state.items()
        if name.startswith(LLAMA) and name not in trained
    }
    save_file(llama, tmp_path / "llama" / "model.safetensors")
    (tmp_path / "llama" / "config.json").write_text(json.dumps(LLAMA_SIZES))
    tower = {
        name.removeprefix("visual_encoder."): value for name, value in state.items() if name.startswith("visual_enc")
    }
    torch.save(tower, tmp_path / "eva_vit_g.pth")
    save_checkpoint(model, tmp_path / "checkpoint.pth", epoch=1)
    return tmp_path


def load(files, **options):
    config = Vlm4HoiConfig.from_folder(files / "llama", VISION, LORA)
    return load_vlm4hoi(files / "llama", files / "eva_vit_g.pth", files / "checkpoint.pth", config, **options)


def rewrite(files, change):
    content = torch.load(files / "checkpoint.pth", weights_only=True)
    content["model"] = change(dict(content["model"]))
    torch.save(content, files / "checkpoint.pth")


def test_a_written_checkpoint_is_read_again(files, model):
    found, report = load(files)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert not report.missing
    assert len(report.dropped) == LLAMA_SIZES["num_hidden_layers"]
    assert "identity" in report.summary()
    ids = torch.tensor([[1, -1, 5, 6]])
    visual = torch.ones(1, 1, 4 * VISION["width"])
    assert torch.equal(found(ids, torch.ones_like(ids), visual), model(ids, torch.ones_like(ids), visual))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: name.replace("lora_A.weight", "lora_A.default.weight").replace(
            "lora_B.weight", "lora_B.default.weight"
        ),
    ],
    ids=["module", "newer peft"],
)
def test_other_names_are_understood(files, model, rename):
    rewrite(files, lambda state: {rename(name): value for name, value in state.items()})
    found, _ = load(files)
    name = model.trainable_names()[0]
    assert torch.equal(found.state_dict()[name], model.state_dict()[name])


@pytest.mark.parametrize("lacking", ["lora_A", "lora_B", "llama_proj.bias"])
def test_a_missing_adapter_is_refused(files, lacking):
    rewrite(files, lambda state: {name: value for name, value in state.items() if lacking not in name})
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth.*lacks"):
        load(files)


def test_an_adapter_of_another_rank_is_refused(files):
    rewrite(files, lambda state: {name: value[:1] if "lora_A" in name else value for name, value in state.items()})
    with pytest.raises(CheckpointError, match="another shape"):
        load(files)


def test_unknown_tensors_of_a_checkpoint_are_refused(files):
    rewrite(files, lambda state: {**state, "qformer.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"left over \(1\): qformer"):
        load(files)


def test_nan_is_refused(files):
    rewrite(files, lambda state: {**state, "llama_proj.bias": state["llama_proj.bias"] * float("nan")})
    with pytest.raises(NonFiniteError, match=r"llama_proj\.bias"):
        load(files)


def test_a_norm_in_a_file_is_loaded(files):
    rewrite(files, lambda state: {**state, "ln_vision.weight": torch.full((8,), 2.0)})
    assert float(load(files)[0].ln_vision.weight.sum()) == 16
    (files / "llama" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load(files)


def test_positions_of_another_grid_are_resized(files):
    tower = torch.load(files / "eva_vit_g.pth", weights_only=True)
    tower["pos_embed"] = torch.randn(1, 17, VISION["width"])
    torch.save(tower, files / "eva_vit_g.pth")
    assert "visual_encoder.pos_embed" in load(files)[1].reshaped


def test_half_precision_keeps_what_is_trained(files):
    found, _ = load(files, dtype=torch.bfloat16)
    kinds = {name: value.dtype for name, value in found.state_dict().items()}
    assert kinds["visual_encoder.blocks.0.attn.q_bias"] == torch.float32
    assert kinds["visual_encoder.blocks.0.attn.qkv.weight"] == torch.bfloat16
    assert all(kinds[name] == torch.float32 for name in found.trainable_names())
    with found.autocast():
        visual = found.encode(torch.zeros(1, 3, 28, 28))
        assert visual.dtype == torch.float32
        ids = torch.tensor([[1, -1, 3]])
        assert torch.isfinite(found(ids, torch.ones_like(ids), visual)).all()


def test_quantisation_is_refused_without_its_library_or_gpu(files):
    with pytest.raises(DeviceError, match="quantisation"):
        load(files, quantisation="8bit")


class PackedLinear(torch.nn.Linear):
    """Stands for a layer of bitsandbytes that loses nothing."""

    def __init__(self, inputs, outputs, bias, **options):
        super().__init__(inputs, outputs, bias=bias)
        self.options = options


@pytest.mark.parametrize("how", ["8bit", "4bit"])
def test_packing_keeps_lora_and_head(model, monkeypatch, how):
    def parameter(data, **_):
        return torch.nn.Parameter(data, requires_grad=False)

    names = ("Linear8bitLt", "Linear4bit")
    library = SimpleNamespace(
        nn=SimpleNamespace(**dict.fromkeys(names, PackedLinear), Int8Params=parameter, Params4bit=parameter)
    )
    monkeypatch.setattr(quantised, "check_quantisation", lambda device: library)
    packed = copy.deepcopy(model)
    quantised.quantise(packed, how, "cpu")
    attention = packed.llama.model.layers[0].self_attn
    assert isinstance(attention.q_proj, PackedLinear)
    assert isinstance(attention.o_proj, PackedLinear)
    assert not isinstance(packed.llama.lm_head[0], PackedLinear)
    assert packed.trainable_names() == model.trainable_names()
    assert type(attention.q_proj.lora_A) is torch.nn.Linear
    ids = torch.tensor([[1, -1, 5, 6]])
    visual = torch.ones(1, 1, 4 * VISION["width"])
    found = packed(ids, torch.ones_like(ids), visual)
    assert torch.allclose(found, model(ids, torch.ones_like(ids), visual), atol=1e-5)


@pytest.mark.parametrize(
    ("llama", "vision", "field"),
    [({}, {}, "vocab_size"), (LLAMA_SIZES, {"image_size": 50}, "image_size"), (LLAMA_SIZES, {"heads": 3}, "width")],
)
def test_sizes_that_cannot_be_built(llama, vision, field):
    with pytest.raises(InputError, match=field):
        Vlm4HoiConfig.from_parts(llama, {**VISION, **vision})


def test_the_full_size_matches_the_released_counts():
    """162 tensors with 56,627,200 trained values, as a file of the real size must have."""
    sizes = {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }  # fmt: skip
    from sightline.systems.hoiref.model.vlm4hoi import Vlm4Hoi

    with torch.device("meta"):
        whole = Vlm4Hoi(Vlm4HoiConfig.from_parts(sizes))
    names = whole.trainable_names()
    assert len(names) + sizes["num_hidden_layers"] == 162
    assert sum(whole.state_dict()[name].numel() for name in names) == 56_627_200
    assert len(checkpoint_state(random_vlm4hoi(Vlm4HoiConfig.from_parts(LLAMA_SIZES, VISION, LORA), 0))) == 12
