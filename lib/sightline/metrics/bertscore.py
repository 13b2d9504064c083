"""BERTScore F1 of sentence pairs: one model load, every distinct sentence embedded once.

Definition: Zhang et al., arXiv 1904.09675, through the functions of the package `bert_score`: no idf weights,
no baseline rescaling. The package's own entry point orders sentences by a set, whose order changes from
process to process and with it the last digits; here the order comes from the sentences alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bert_score.utils import get_bert_embedding, get_model, get_tokenizer, greedy_cos_idf
from torch.nn.utils.rnn import pad_sequence

from sightline.errors import NonFiniteError
from sightline.metrics import MetricUnavailable

_EMBEDDING_PAD = 2.0  # what bert_score pads with; masked out before it counts
_LONGEST_SENSIBLE = 1_000_000


def check_model(folder: Path) -> None:
    """Checks that `folder` is a model in Hugging Face layout.

    Raises:
        MetricUnavailable: It is not there.
    """
    if not (Path(folder) / "config.json").is_file():
        raise MetricUnavailable(
            "no model in Hugging Face layout here (config.json is missing)",
            file=folder, mend="put the model there or correct the path in the system's card",
        )  # fmt: skip


def bertscore_f1(
    references: Sequence[str],
    hypotheses: Sequence[str],
    model_folder: Path,
    layers: int,
    *,
    device: str = "cpu",
    batch_size: int = 64,
) -> list[float]:
    """Scores all pairs at once.

    Args:
        references: Reference sentences.
        hypotheses: One hypothesis per reference.
        model_folder: Encoder and tokenizer in Hugging Face layout.
        layers: Number of encoder layers used (17 for roberta-large).
        device: Torch device.
        batch_size: Sentences, and pairs, per call.

    Returns:
        One F1 per pair, without rescaling.

    Raises:
        MetricUnavailable: The model is absent or has fewer layers.
        NonFiniteError: The model returned NaN or infinity.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    pairs = sorted(set(zip(references, hypotheses, strict=True)))
    if not pairs:
        return []
    model, tokenizer = _load(Path(model_folder), layers, device)
    sentences = sorted({text for pair in pairs for text in pair}, key=lambda text: (-len(text.split()), text))
    embedded = _embed(sentences, model, tokenizer, device, batch_size)
    found: dict[tuple[str, str], float] = {}
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        values = _greedy_f1(batch, embedded, device)
        found.update(zip(batch, values, strict=True))
    return [found[pair] for pair in zip(references, hypotheses, strict=True)]


def _load(folder: Path, layers: int, device: str) -> tuple[Any, Any]:
    check_model(folder)
    try:
        model = get_model(str(folder), layers).to(device)
        tokenizer = get_tokenizer(str(folder))
    except AssertionError as error:
        raise MetricUnavailable(str(error), file=folder, mend="lower the number of layers") from None
    except (OSError, ValueError) as error:
        raise MetricUnavailable(
            f"the model cannot be loaded ({error})", file=folder, mend="fetch the model again"
        ) from None
    if tokenizer.model_max_length > _LONGEST_SENSIBLE:  # absent from the tokenizer's own files
        offset = 2 if "roberta" in model.config.model_type else 0  # its positions start after the padding id
        tokenizer.model_max_length = model.config.max_position_embeddings - offset
    return model, tokenizer


def _embed(
    sentences: Sequence[str], model: Any, tokenizer: Any, device: str, batch_size: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns per sentence its token embeddings [tokens, width] and token weights [tokens]."""
    weights: dict[int, float] = defaultdict(lambda: 1.0)
    weights[tokenizer.sep_token_id] = 0
    weights[tokenizer.cls_token_id] = 0
    embedded = {}
    for start in range(0, len(sentences), batch_size):
        batch = list(sentences[start : start + batch_size])
        vectors, mask, weight = get_bert_embedding(batch, model, tokenizer, weights, device=device)
        if not torch.isfinite(vectors).all():
            raise NonFiniteError("the BERTScore model returned NaN or infinity", mend="check its weights")
        for row, sentence in enumerate(batch):
            length = int(mask[row].sum())
            embedded[sentence] = (vectors[row, :length].cpu(), weight[row, :length].cpu())
    return embedded


def _greedy_f1(
    batch: Sequence[tuple[str, str]], embedded: dict[str, tuple[torch.Tensor, torch.Tensor]], device: str
) -> list[float]:
    def side(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        vectors = [embedded[text][0] for text in texts]
        lengths = torch.tensor([len(vector) for vector in vectors])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        padded = pad_sequence(vectors, batch_first=True, padding_value=_EMBEDDING_PAD)
        weights = pad_sequence([embedded[text][1] for text in texts], batch_first=True)
        return padded.to(device), mask.to(device), weights.to(device)

    with torch.inference_mode():
        references, hypotheses = side([pair[0] for pair in batch]), side([pair[1] for pair in batch])
        _, _, f1 = greedy_cos_idf(*references, *hypotheses)
    return [float(value) for value in f1.cpu()]
