"""The golden VLM4HOI: weights by the fill rule, written as the three genuine files, read by the real loader."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from fill import fill_tensor
from golden import load_json
from hoiref_data import SYSTEM
from safetensors.torch import save_file
from sightline.errors import CheckpointError
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.loader import TOWER, load_vlm4hoi
from sightline.systems.hoiref.model.vlm4hoi import LLAMA, Vlm4Hoi


class StubTokenizer:
    """Bytes and four special tokens, as the golden README describes."""

    def __init__(self) -> None:
        self.size = int(facts().get("vocab", 260))
        self.specials = {"<unk>": 0, "<s>": 1, "</s>": 2, "$$": self.size - 1}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        ids = [1] if bos else []
        while text:
            found = next(
                (token for token in sorted(self.specials, key=len, reverse=True) if text.startswith(token)), ""
            )
            ids += [self.specials[found]] if found else [3 + byte for byte in text[0].encode()]
            text = text[len(found) or 1 :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        names = {number: token.encode() for token, number in self.specials.items()}
        return b"".join(names.get(one) or bytes([one - 3]) for one in ids).decode("utf-8", errors="replace")

    def token_id(self, token: str) -> int:
        if token not in self.specials:
            raise CheckpointError(f"the tokenizer has no token {token}")
        return self.specials[token]


def facts() -> dict:
    """Returns the sizes of the golden model."""
    return load_json(SYSTEM, "model", "config.json") or {}


def config() -> Vlm4HoiConfig:
    """Returns the golden model's config, through the form a card has."""
    given = facts()
    llama = {
        "vocab_size": given["vocab"], "hidden_size": given["hidden"], "intermediate_size": given["inter"],
        "num_hidden_layers": given["layers"], "num_attention_heads": given["heads"],
        "max_position_embeddings": given["maxpos"], "rms_norm_eps": given.get("rms_norm_eps", 1e-5),
        "rope_theta": given.get("rope_theta", 10000.0),
    }  # fmt: skip
    vision = {
        "image_size": given["img"], "width": given["vit_dim"], "depth": given["vit_depth"], "heads": given["vit_heads"],
    }  # fmt: skip
    return Vlm4HoiConfig.from_parts(llama, vision, {"rank": given["r"], "alpha": given["alpha"], "dropout": 0.05})


def golden_shapes() -> dict[str, tuple[int, ...]]:
    """Returns tensor name -> shape of the original's whole state."""
    return {row[0]: tuple(row[1]) for row in load_json(SYSTEM, "model", "state_dict_keys.json") or []}


@cache
def golden_files() -> Path:
    """Writes LLaMA's folder, the tower's file and the checkpoint once, and returns their folder."""
    folder = Path(tempfile.mkdtemp(prefix="sightline-vlm4hoi-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "llama").mkdir()
    state = {
        name: torch.from_numpy(fill_tensor(name, shape))
        for name, shape in golden_shapes().items()
        if not name.endswith("inv_freq")
    }
    trained = set(load_json(SYSTEM, "model", "trainable_keys.json") or [])
    llama = {
        name.removeprefix(LLAMA).replace("lm_head.0.", "lm_head."): value
        for name, value in state.items()
        if name.startswith(LLAMA) and name not in trained
    }
    save_file(llama, folder / "llama" / "model.safetensors")
    (folder / "llama" / "config.json").write_text(json.dumps(config().llama))
    tower = {name.removeprefix(TOWER): value for name, value in state.items() if name.startswith(TOWER)}
    torch.save({**tower, "head.weight": torch.ones(2, 2)}, folder / "eva_vit_g.pth")
    rest = {name: value for name, value in state.items() if name in trained or name.startswith("ln_vision.")}
    torch.save({"model": rest, "optimizer": {}, "config": {}, "scaler": {}, "epoch": 55}, folder / "checkpoint_55.pth")
    return folder


@cache
def golden_model() -> Vlm4Hoi:
    """Loads the golden model through the loader of released files."""
    folder = golden_files()
    model, report = load_vlm4hoi(folder / "llama", folder / "eva_vit_g.pth", folder / "checkpoint_55.pth", config())
    assert not report.missing
    assert report.left_over == ["eva_vit_g.pth:head.weight"]
    return model
