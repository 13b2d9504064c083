"""Small weights for the demo under the genuine names: a tower that can see, and a language model that knows nothing.

The original's tower comes trained and stays frozen, and nothing learns from a random one in a minute. So the
demo's tower is trained first, on what each cell of the training frames shows; the rest starts from random
weights.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.llm.tokens import load_tokenizer
from sightline.records.files import write_bytes, write_json
from sightline.run.progress import progress_bar
from sightline.systems.hoiref.boxes import GRID as BOX_GRID
from sightline.systems.hoiref.builder import HANDS, Scene
from sightline.systems.hoiref.demo_scenes import GRID, OBJECTS, DrawnVideo, cells_of
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.loader import save_checkpoint
from sightline.systems.hoiref.model.vlm4hoi import LLAMA, Vlm4Hoi, random_vlm4hoi
from sightline.systems.hoiref.pixels import load_rgb, tower_input

log = logging.getLogger(__name__)
LLAMA_FOLDER, TOWER_FILE, START_FILE = "Llama-demo", "eva_vit_g.pth", "checkpoint_start.pth"
VISION = {"image_size": 56, "width": 64, "depth": 2, "heads": 4, "mlp_ratio": 2.0}
LORA = {"rank": 4, "alpha": 1.0}
_WAVES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_CLASSES = ("", *HANDS, *OBJECTS)
_VOCABULARY = 448
_BATCH, _RATE, _NOISE = 64, 2e-3, 0.8
_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
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
NUMBERS = tuple(f"<{number}>" for number in range(BOX_GRID + 1))
SPECIAL_TOKENS = ("{", "}", "<delim>", "<p>", "</p>", *NUMBERS)
"""Tokens of a box: one per number, so that a small model need not spell."""


def write_demo_weights(root: str | Path, videos: Sequence[DrawnVideo], *, seed: int, tower_steps: int) -> None:
    """Writes `LLAMA_FOLDER`, `TOWER_FILE` and `START_FILE` under the dataset's folder; equal arguments, equal bytes.

    Args:
        root: Holds the dataset; gets the weights.
        videos: Training videos, whose frames the tower learns from.
        seed: Decides every weight.
        tower_steps: Steps of its training.
    """
    root = Path(root)
    vocabulary = train_tiny_tokenizer(_texts(), _VOCABULARY, SPECIAL_TOKENS, root / LLAMA_FOLDER)
    llama = {**_LLAMA, "vocab_size": vocabulary}
    model = random_vlm4hoi(Vlm4HoiConfig.from_parts(llama, VISION, LORA), seed)
    _order_numbers(model, root / LLAMA_FOLDER, seed)
    scenes = [scene for video in videos for scene in video.scenes]
    train_tower(model, scenes, root, seed=seed, steps=tower_steps)
    _write_llama(root / LLAMA_FOLDER, llama, model)
    buffer = io.BytesIO()  # saved through memory: `torch.save` to a path writes its name into the file
    torch.save(model.visual_encoder.state_dict(), buffer)
    write_bytes(root / TOWER_FILE, buffer.getvalue())
    save_checkpoint(model, root / START_FILE, epoch=0)


def _order_numbers(model: Vlm4Hoi, folder: Path, seed: int) -> None:
    """Makes near numbers alike, as they are in any trained language model: random projections of waves."""
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.token_id(number) for number in NUMBERS]
    angles = torch.arange(len(ids))[:, None] / BOX_GRID * torch.pi * torch.tensor(_WAVES)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    generator = torch.Generator().manual_seed(seed)
    head = model.llama.lm_head[0].weight  # type: ignore[index]
    with torch.no_grad():
        for table in (model.llama.model.embed_tokens.weight, head):
            drawn = waves @ torch.randn(waves.shape[1], table.shape[1], generator=generator)
            table[ids] = table.std() * drawn / drawn.std()


def _texts() -> list[str]:
    """Returns every kind of text the demo asks and answers; numbers are tokens of their own."""
    named = [*OBJECTS, *HANDS]
    asked = ["Where is the {}", "Where is the {} of the person?", "Which hand has the {}?"]
    asked += ["What hand is holding the {}?", "Locate the object being manipulated by the {} of the person"]
    asked += ["What is the object in the {} of the person?", "Where are the hands of the person?"]
    asked += ["[grounding] Describe the ongoing action in this image.", "[detection] {}", "[identify] ", "[refer] "]
    asked += ["[vqa] ", "The person holds the {}", " in the {}.", "{}", "{} of the person", "Left hand", "Right hand"]
    texts = [text.format(name) for text in asked for name in named]
    return [*texts, *(f"[INST] <Img></Img> {text} [/INST]" for text in texts)]


def train_tower(model: Vlm4Hoi, scenes: Sequence[Scene], root: Path, *, seed: int, steps: int) -> float:
    """Trains the tower to say of every cell what is there, which hand holds it, and where its box ends.

    Args:
        model: Whose tower is trained, in place.
        scenes: What the frames show.
        root: Folder that paths of the frames start from.
        seed: Of order and heads.
        steps: Batches of 64 frames.

    Returns:
        Share of the last batches' occupied cells that were named right.
    """
    config = model.config.vision
    pictures = [tower_input(load_rgb(root / one.image), config.image_size) for one in scenes]
    images = torch.from_numpy(np.stack(pictures))
    parts = zip(*(_labels(scene, config.grid) for scene in scenes), strict=True)
    labels, holders, boxes = (torch.from_numpy(np.stack(part)) for part in parts)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(config.width, len(_CLASSES) + 3 + 4)
        tower = model.visual_encoder.train()
        parameters = [*tower.parameters(), *head.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        right = []
        for rows in progress_bar(list(_batches(len(scenes), steps, seed)), description="tower", unit="step"):
            seen = F.layer_norm(tower(images[rows]), (config.width,))[:, 1:]
            seen = seen + _NOISE * torch.randn_like(seen)  # what is to be read off must stand out, as in a large tower
            loss, share = _tower_loss(head(seen), labels[rows], holders[rows], boxes[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            right.append(share)
    tower.eval()
    share = float(np.mean(right[-20:])) if right else 0.0
    log.info("the tower names %.1f %% of the occupied cells", 100 * share)
    return share


def _batches(count: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        yield torch.from_numpy(generator.choice(count, size=min(_BATCH, count), replace=False))


def _labels(scene: Scene, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for each patch of `grid` x `grid` what its cell shows: which thing, who holds it (0 nobody), its box."""
    labels, holders = np.zeros((GRID, GRID), dtype=np.int64), np.zeros((GRID, GRID), dtype=np.int64)
    boxes = np.zeros((GRID, GRID, 4), dtype=np.float32)
    cells = [divmod(cell, GRID) for cell in cells_of(scene)]
    for cell, entity in zip(cells, scene.entities, strict=True):
        labels[cell] = _CLASSES.index(entity.name)
        boxes[cell] = np.array(entity.box) / np.tile(np.array(scene.size), 2)
        if entity.holds is not None:
            holders[cells[entity.holds]] = holders[cell] = HANDS.index(entity.name) + 1
    where = np.arange(grid) * GRID // grid
    taken = np.ix_(where, where)
    return labels[taken].reshape(-1), holders[taken].reshape(-1), boxes[taken].reshape(-1, 4)


def _tower_loss(said: Tensor, labels: Tensor, holders: Tensor, boxes: Tensor) -> tuple[Tensor, float]:
    names, held, places = said.split([len(_CLASSES), 3, 4], dim=-1)
    there = labels > 0
    loss = F.cross_entropy(names.flatten(0, 1), labels.flatten())
    loss = loss + F.cross_entropy(held.flatten(0, 1), holders.flatten())
    loss = loss + 20 * F.smooth_l1_loss(places[there], boxes[there], beta=0.02)
    return loss, float((names.argmax(-1) == labels)[there].float().mean())


def _write_llama(folder: Path, config: dict[str, Any], model: Vlm4Hoi) -> None:
    plain = {
        name.removeprefix(LLAMA).replace("lm_head.0.", "lm_head."): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name.startswith(LLAMA) and "lora_" not in name
    }
    write_bytes(folder / "model.safetensors", safetensors.torch.save(plain, metadata={"format": "pt"}))
    write_json(folder / "config.json", config)
