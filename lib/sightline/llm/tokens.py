"""One small interface to the tokenizers the systems ship: `tokenizers` files, sentencepiece, any other folder.

Llama-2 tokenizers put a space before every piece of text, also after a special token. transformers 5 no
longer does, so a `tokenizer.model` is read with the sentencepiece library, one segment after another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import CheckpointError, InputError
from sightline.records.files import read_json


class TextTokenizer(Protocol):
    """Text to ids and back."""

    size: int
    """Ids in use, extra tokens included."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Returns the ids of a text in which special tokens may stand, with or without BOS."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; special tokens are kept, nothing is stripped at the end."""

    def token_id(self, token: str) -> int:
        """Returns the id of one special token."""


class FastTokenizer:
    """A `tokenizer.json` of the `tokenizers` library."""

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer

        self._path = Path(path)
        try:
            self._tokenizer = Tokenizer.from_str(self._path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(
                f"not a tokenizer file ({error})", file=path, mend="copy it again from the release"
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """See `TextTokenizer.encode`."""
        return list(self._tokenizer.encode(text, add_special_tokens=bos).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """See `TextTokenizer.decode`."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def token_id(self, token: str) -> int:
        """See `TextTokenizer.token_id`."""
        return _known(self._tokenizer.token_to_id(token), token, self._path)


class SentencePieceTokenizer:
    """A `tokenizer.model` of sentencepiece, with extra tokens cut out of the text first."""

    def __init__(self, path: str | Path, extra: dict[str, int]) -> None:
        from sentencepiece import SentencePieceProcessor

        self._path = Path(path)
        try:
            self._model = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"not a sentencepiece model ({error})", file=path, mend="copy it again from the release"
            ) from None
        self._ids = dict(extra)
        for token_id in (self._model.bos_id(), self._model.eos_id(), self._model.unk_id()):
            if token_id >= 0:
                self._ids.setdefault(self._model.id_to_piece(token_id), token_id)
        self._tokens = {number: token for token, number in self._ids.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.size = max(self._model.get_piece_size(), max(self._ids.values()) + 1)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """See `TextTokenizer.encode`."""
        ids = [self._model.bos_id()] if bos else []
        for segment in self._split.split(text):
            if segment in self._ids:
                ids.append(self._ids[segment])
            elif segment:
                ids.extend(self._model.encode(segment))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """See `TextTokenizer.decode`."""
        parts: list[str] = []
        run: list[int] = []
        for number in [*map(int, ids), None]:
            if number is not None and number not in self._tokens and number < self._model.get_piece_size():
                run.append(number)
                continue
            if run:
                parts.append(self._model.decode(run))
                run = []
            if number is not None:
                parts.append(self._tokens.get(number, ""))
        return "".join(parts)

    def token_id(self, token: str) -> int:
        """See `TextTokenizer.token_id`."""
        return _known(self._ids.get(token), token, self._path)


class FolderTokenizer:
    """Any other tokenizer folder, through transformers."""

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoTokenizer

        self._path = Path(folder)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.size = len(self._tokenizer)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """See `TextTokenizer.encode`."""
        return list(self._tokenizer(text, add_special_tokens=bos)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """See `TextTokenizer.decode`."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def token_id(self, token: str) -> int:
        """See `TextTokenizer.token_id`."""
        return _known(self._tokenizer.get_vocab().get(token), token, self._path)


def load_tokenizer(folder: str | Path, required: Sequence[str] = ()) -> TextTokenizer:
    """Opens the tokenizer of a folder: `tokenizer.json`, else `tokenizer.model`, else whatever it declares.

    Args:
        folder: Where the files lie.
        required: Special tokens that must exist.

    Raises:
        CheckpointError: No tokenizer there, or a required token is not in it.
        InputError: A file is damaged.
    """
    folder = Path(folder)
    tokenizer: TextTokenizer
    if (folder / "tokenizer.json").exists():
        tokenizer = FastTokenizer(folder / "tokenizer.json")
    elif (folder / "tokenizer.model").exists():
        tokenizer = SentencePieceTokenizer(folder / "tokenizer.model", _added_tokens(folder))
    elif (folder / "tokenizer_config.json").exists():
        tokenizer = FolderTokenizer(folder)
    else:
        raise CheckpointError(
            "no tokenizer here (tokenizer.json or tokenizer.model)",
            file=folder,
            mend="the release keeps its tokenizer beside the weights; copy both",
        )
    for token in required:
        tokenizer.token_id(token)
    return tokenizer


def _added_tokens(folder: Path) -> dict[str, int]:
    """Returns the extra tokens that a folder declares beside its sentencepiece model."""
    extra: dict[str, int] = {}
    if (folder / "tokenizer_config.json").exists():
        declared = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        extra.update({entry["content"]: int(number) for number, entry in declared.items()})
    if (folder / "added_tokens.json").exists():
        extra.update({token: int(number) for token, number in read_json(folder / "added_tokens.json").items()})
    return extra


def _known(number: int | None, token: str, path: Path) -> int:
    if number is None:
        raise CheckpointError(
            f"the tokenizer has no token {json.dumps(token)}",
            file=path,
            mend="take the tokenizer that belongs to the checkpoint",
        )
    return int(number)
