"""Untrained weights for the demo, in the genuine layouts: 3D CNN, LLaMA folder, Stream-VLM checkpoint."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.records.files import write_bytes, write_json
from sightline.systems.fitcoach.annotations import Span, Workout
from sightline.systems.fitcoach.demo_motion import EXERCISES
from sightline.systems.fitcoach.demo_plan import END, FIRST, NEXT, coach_texts
from sightline.systems.fitcoach.model.cnn import ActionClassifier, InvertedResidual
from sightline.systems.fitcoach.model.config import StreamVlmConfig
from sightline.systems.fitcoach.model.loader import SPECIAL_TOKENS, genuine_state_dict
from sightline.systems.fitcoach.model.stream_vlm import random_stream_vlm
from sightline.systems.fitcoach.samples import MODES, episodes_of

CNN_FILE = "fitness_ally_hypermodel/efficientnet4Lite_1.8.3.checkpoint"
LLAMA_FOLDER = "Llama-demo"
CHECKPOINT_FILE = "ckpts_streamvlm/ckpts_streamvlm/state_dict.pth.tar"
"""The folder stands twice, as the released archive unpacks."""

CROSS_ATTENTION = {"adapter_insert_layers": [0, 1, 2, 3], "num_of_xattn_heads": 1, "attn_dim": 128}
LORA = {"r": 4, "lora_alpha": 2.0, "target_modules": ["q_proj", "v_proj", "k_proj", "lm_head"]}
_CLASSES = 3031
_BIAS_STD = 0.05
_RESIDUAL_GAIN = 0.15
_STEM_GAIN = 3.0
_LLAMA_STD = 0.06
_TOKENIZER_SIZE = 576  # nearly one token per word the coach says; a multiple of 64, as the model's rows
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}


def write_demo_weights(root: str | Path, *, seed: int) -> None:
    """Writes random weights under `root`: `CNN_FILE`, `LLAMA_FOLDER` and `CHECKPOINT_FILE` with its tokenizer.

    Nothing is biased towards any answer. Equal seeds give equal bytes.

    Args:
        root: Folder that gets the files.
        seed: Decides every weight.
    """
    root = Path(root)
    _write_torch(root / CNN_FILE, random_cnn(seed).state_dict())
    checkpoint = root / CHECKPOINT_FILE
    tokens = [
        train_tiny_tokenizer(demo_texts(), _TOKENIZER_SIZE - len(SPECIAL_TOKENS), extra, folder)
        for extra, folder in (((), root / LLAMA_FOLDER), (SPECIAL_TOKENS, checkpoint.parent))
    ]
    llama = {**_LLAMA, "vocab_size": tokens[0]}
    config = StreamVlmConfig.from_parts(llama, CROSS_ATTENTION, LORA).resized(tokens[1])
    model = random_stream_vlm(config, seed, std=_LLAMA_STD)
    _write_llama(root / LLAMA_FOLDER, llama, model.state_dict())
    _write_torch(checkpoint, {"state_dict": genuine_state_dict(model)})


def random_cnn(seed: int) -> ActionClassifier:
    """Builds the CNN with random weights, scaled so that its features follow what moves.

    He-normal: convolutions before a ReLU6 get variance 2 / fan-in, those before none 1 / fan-in. Kernels on the
    picture itself have no mean, so that they see edges and not the room's colour; what a residual block adds is
    scaled down, so that thirty blocks of noise do not drown their input. Nothing is trained.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = ActionClassifier(_CLASSES)
    model.to_empty(device="cpu")
    linear = {id(block.conv[-1]) for block in model.modules() if isinstance(block, InvertedResidual)}
    with torch.no_grad():
        for layer in model.modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            gain = 1.0 if id(layer) in linear or isinstance(layer, nn.Linear) else 2.0
            layer.weight.normal_(0.0, (gain / layer.weight[0].numel()) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.normal_(0.0, _BIAS_STD, generator=generator)
            if isinstance(layer, nn.Conv2d) and layer.in_channels == 3:
                layer.weight.sub_(layer.weight.mean((2, 3), keepdim=True)).mul_(_STEM_GAIN)
        for block in (block for block in model.modules() if isinstance(block, InvertedResidual)):
            if block.spec.stride == 1 and block.spec.inputs == block.spec.outputs:
                for parameter in block.conv[-1].parameters():
                    parameter.mul_(_RESIDUAL_GAIN)
    return model.eval()


def demo_texts() -> list[str]:
    """Returns all that the demo's coach says and every prompt of the three evaluation modes."""
    names = [exercise.name for exercise in EXERCISES]
    said = [FIRST.format(name=names[0]), *(NEXT.format(name=name) for name in names[1:]), END]
    times = np.arange(4.0 * len(said))
    workout = Workout(
        video="",
        video_id="0000",
        frame_times=times,
        spans=tuple(Span(text, 4 * place, 4 * place + 2) for place, text in enumerate(said)),
        feedback_times=tuple(times[::4].tolist()),
        is_transition=(True,) * len(said),
    )
    prompts = [episode.prompt for mode in MODES for episode in episodes_of(workout, mode, times)]
    return [*coach_texts(), *prompts]


def _write_llama(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Writes what the language model was before it learnt to see: no LoRA, no cross-attention, no extra tokens."""
    plain = {
        name: tensor[: config["vocab_size"]].contiguous() if "embed_tokens" in name or "lm_head" in name else tensor
        for name, tensor in state.items()
        if "lora_" not in name and "xattn_layer" not in name
    }
    write_bytes(folder / "model.safetensors", safetensors.torch.save(plain, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)


def _write_torch(path: Path, content: dict[str, Any]) -> None:
    """Saves through memory: `torch.save` to a path writes the file's name, here a temporary one, into the file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())
