"""The demo's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sightline.errors import InputError
from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.llm.tokens import load_tokenizer
from sightline.systems.fitcoach.demo_weights import demo_texts
from transformers import AutoTokenizer

SIZE = 601
EXTRA = ("<vision>", "<answer>", "<answer/>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("tokenizer")
    assert train_tiny_tokenizer(demo_texts(), SIZE, EXTRA, target) == SIZE + 3
    return target


def test_transformers_loads_it_with_llama_ids(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.is_fast
    assert len(tokenizer) == SIZE + 3
    assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]) == [0, 1, 2, 3, 258]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert [tokenizer.encode(token)[-1] for token in EXTRA] == [SIZE, SIZE + 1, SIZE + 2]
    ids = tokenizer.encode("Go lower!<vision>")
    assert (ids[0], ids[-1]) == (1, SIZE)
    assert tokenizer.padding_side == "left"


def test_every_demo_text_survives_the_round_trip(folder: Path) -> None:
    tokenizers = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder, EXTRA)
    for text in [*demo_texts(), "Ünseen wörds 数 \n\t and  two spaces"]:
        ids = tokenizers[0].encode(text, add_special_tokens=False)
        assert tokenizers[0].decode(ids) == text
        assert tokenizers[1].encode(text, bos=False) == ids
        assert tokenizers[1].decode(ids) == text
        assert 0 not in ids


def test_demo_feedbacks_are_short(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert (
        max(len(tokenizer.encode(text, bos=False)) for text in ("Bring your hips down.", "Use both of your arms!")) <= 6
    )


def test_merges_stay_inside_words(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert all("\u2581" not in piece[1:] for piece in vocabulary)


def test_same_texts_in_any_order_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    train_tiny_tokenizer([*reversed(demo_texts()), demo_texts()[0]], SIZE, EXTRA, tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        train_tiny_tokenizer(["abc"], 260, EXTRA, tmp_path)
    with pytest.raises(InputError, match="vocab_size"):
        train_tiny_tokenizer([""], 600, EXTRA, tmp_path)
    assert list(tmp_path.iterdir()) == []
