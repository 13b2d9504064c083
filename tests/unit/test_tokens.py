"""Tokenizer files: sentencepiece by segments, `tokenizers` json, and what is missing or damaged."""

from __future__ import annotations

import io
import json

import pytest
from sentencepiece import SentencePieceTrainer
from sightline.errors import CheckpointError, InputError
from sightline.llm.tokens import FastTokenizer, SentencePieceTokenizer, load_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors

SPECIAL = ("<vision>", "<answer>", "<answer/>")
TEXTS = [
    "You are an expert fitness coaching AI.",
    "The user should be doing squats.",
    "Lift your knees higher!",
    "Nice! You are moving at a good pace.",
    "Keep your back straight and your chest up.",
]


@pytest.fixture(scope="module")
def sentencepiece_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentencepiece")
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, vocab_size=330, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", minloglevel=2, num_threads=1,
        remove_extra_whitespaces=False, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    size = SentencePieceTokenizer(folder / "tokenizer.model", {}).size
    added = {token: size + number for number, token in enumerate(SPECIAL)}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def fast_twin(folder):
    """Returns a `tokenizers` file with the same vocabulary and the rules of a Llama-2 tokenizer.json."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    vocab = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    merges = sorted(
        (
            (vocab[piece], piece[:cut], piece[cut:])
            for piece in vocab
            for cut in range(1, len(piece))
            if piece[:cut] in vocab and piece[cut:] in vocab and not piece.startswith("<0x")
        ),
    )
    twin = Tokenizer(
        models.BPE(vocab, [(a, b) for _, a, b in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    twin.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    twin.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    twin.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    twin.add_special_tokens([*("<unk>", "<s>", "</s>"), *SPECIAL])
    return twin


def test_segments_are_encoded_as_llama_2_did(sentencepiece_folder, tmp_path):
    slow = load_tokenizer(sentencepiece_folder, SPECIAL)
    fast_twin(sentencepiece_folder).save(str(tmp_path / "tokenizer.json"))
    fast = load_tokenizer(tmp_path, SPECIAL)
    assert isinstance(slow, SentencePieceTokenizer)
    assert isinstance(fast, FastTokenizer)
    assert slow.size == fast.size
    for text in (*TEXTS, TEXTS[0] + "<vision>", "Keep going<answer>Lift your knees<answer/><vision>", "Ünknown"):
        assert slow.encode(text) == fast.encode(text)
        assert slow.encode(text, bos=False) == slow.encode(text)[1:]
        ids = slow.encode(text, bos=False)
        if "<" not in text:
            assert slow.decode(ids) == fast.decode(ids) == text
    assert slow.encode("x<vision>")[-1] == slow.token_id("<vision>")


def test_incomplete_bytes_and_specials_decode_without_failing(sentencepiece_folder):
    tokenizer = load_tokenizer(sentencepiece_folder)
    first_byte = tokenizer.encode("Ü", bos=False)[-2]
    assert "�" in tokenizer.decode([first_byte])
    assert tokenizer.decode([tokenizer.token_id("</s>")]) == "</s>"
    assert tokenizer.decode([]) == ""


def test_missing_and_damaged_files_are_named(sentencepiece_folder, tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes((sentencepiece_folder / "tokenizer.model").read_bytes())
    with pytest.raises(CheckpointError, match=r"<vision>.*belongs to the checkpoint"):
        load_tokenizer(tmp_path, SPECIAL)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
