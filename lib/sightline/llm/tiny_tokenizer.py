"""A small tokenizer of LLaMA's kind, trained on a demo's own texts.

Same construction as LLaMA-2's: byte-pair encoding over text whose spaces are written as U+2581, one such
mark put in front, bytes as fallback, `<unk>` `<s>` `</s>` as ids 0, 1, 2, then the 256 bytes. A system's
extra tokens follow at the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from sightline.errors import InputError
from sightline.records.files import write_json, write_text

_UNKNOWN, _BEGIN, _END = "<unk>", "<s>", "</s>"
_SPACE = "\u2581"
_BASE = [_UNKNOWN, _BEGIN, _END, *(f"<0x{byte:02X}>" for byte in range(256))]


def train_tiny_tokenizer(
    texts: Sequence[str], vocab_size: int, special_tokens: Sequence[str], folder: str | Path
) -> int:
    """Trains a tokenizer and saves it so that `transformers.AutoTokenizer` loads it.

    Args:
        texts: Texts it must speak well; order and repetition do not matter.
        vocab_size: Most ids before the extra tokens; fewer when the texts offer no more pairs.
        special_tokens: Extra tokens, appended in this order.
        folder: Gets `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Returns:
        Number of ids, extra tokens included.

    Raises:
        InputError: There is no text, or `vocab_size` has no room for the texts' characters.
    """
    distinct = sorted({text for text in texts if text})
    characters = {_SPACE if character == " " else character for text in distinct for character in text} | {_SPACE}
    if not distinct or vocab_size < len(_BASE) + len(characters):
        raise InputError(
            f"{len(distinct)} texts with {len(characters)} characters do not fit {vocab_size} ids",
            field="vocab_size",
            mend=f"give texts and at least {len(_BASE) + len(characters)} ids",
        )
    tokenizer = Tokenizer(_train(distinct, vocab_size))
    tokenizer.normalizer = _normalizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([_special(token) for token in (_UNKNOWN, _BEGIN, _END, *special_tokens)])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{_BEGIN} $A",
        pair=f"{_BEGIN} $A {_BEGIN}:1 $B:1",
        special_tokens=[(_BEGIN, tokenizer.token_to_id(_BEGIN))],
    )
    _save(tokenizer, special_tokens, Path(folder))
    return tokenizer.get_vocab_size(with_added_tokens=True)


def _normalizer() -> Any:
    return normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])


def _special(token: str) -> AddedToken:
    return AddedToken(token, normalized=False, special=True)


def _train(texts: list[str], vocab_size: int) -> models.BPE:
    """Learns merges inside words only, then puts LLaMA's first 259 ids in front."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = _normalizer()
    # Splitting before each mark keeps merges within a word; the saved tokenizer needs no split for that.
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(_SPACE), "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - len(_BASE), show_progress=False, special_tokens=[])
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)
    vocabulary = {piece: index for index, piece in enumerate([*_BASE, *pieces])}
    merges = [tuple(pair) for pair in learnt["merges"]]
    return models.BPE(vocabulary, merges, unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True)


def _save(tokenizer: Tokenizer, special_tokens: Sequence[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    named = {"bos_token": _BEGIN, "eos_token": _END, "unk_token": _UNKNOWN}
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(folder / "special_tokens_map.json", named)
    write_json(
        folder / "tokenizer_config.json",
        {
            **named,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "additional_special_tokens": list(special_tokens),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "padding_side": "left",
            "truncation_side": "left",
        },
    )
