"""A small VLM4HOI that was taught a few answers by heart: what a page shows is then known, and really computed."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.llm.tokens import load_tokenizer
from sightline.systems.hoiref.asking import Asker
from sightline.systems.hoiref.model.config import Vlm4HoiConfig
from sightline.systems.hoiref.model.vlm4hoi import random_vlm4hoi

CUP = "{<20><30><60><70>}"
ANSWERS = {
    "[refer] cup": CUP,
    "[grounding] Describe the ongoing action in this image": (
        "<p>A person</p> {<5><10><95><90>} pours from <p>two cans</p> {<10><20><30><50>}<delim>{<60><20><80><50>}"
    ),
    f"[identify] what is this {CUP}": "the red cup <b>bold</b> & ${1+1}",
    "[vqa] Which hand?": "the left one",
}
SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
STEPS = 120


def taught_asker(folder: Path) -> Asker:
    """Returns the model, ready for questions; about ten seconds."""
    places = [f"<{number}>" for number in range(101)]
    texts = [f"[INST] <Img></Img> {question} [/INST] {answer}" for question, answer in ANSWERS.items()]
    count = train_tiny_tokenizer(texts, 360, ["{", "}", "<delim>", "<p>", "</p>", *places], folder)
    config = Vlm4HoiConfig.from_parts(
        {**SIZES, "vocab_size": count, "max_position_embeddings": 512},
        {"image_size": 28, "width": 8, "depth": 1, "heads": 2},
        {"rank": 2},
    )
    asker = Asker(random_vlm4hoi(config, seed=0), load_tokenizer(folder))
    teach(asker)
    return asker


def teach(asker: Asker) -> None:
    """Trains everything but the tower until the answers come by heart, whatever the picture."""
    model, tokens = asker.model, asker.model.config.vision.tokens
    beginning = list(asker.look_at(torch.zeros(3, 28, 28)).prefix.tokens)
    rows = []
    for question, answer in ANSWERS.items():
        own, said = asker.own_ids(question), [*asker.tokenizer.encode(answer, bos=False), asker.marks.eos]
        rows.append((torch.tensor([[*beginning, *own, *said]]), len(said)))
    parameters = [value for name, value in model.named_parameters() if not name.startswith("visual_encoder")]
    for value in parameters:
        value.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for ids, count in rows:
            visual = torch.randn(1, tokens, 4 * model.config.vision.width, generator=generator)
            logits = model(ids, torch.ones_like(ids), visual)
            F.cross_entropy(logits[0, -count - 1 : -1], ids[0, -count:]).backward()
        optimizer.step()
    model.requires_grad_(False).eval()
