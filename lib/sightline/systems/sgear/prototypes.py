"""Language similarities and visual prototypes of the classes: what is stored, and how the original's files are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from sightline.errors import CheckpointError, InputError
from sightline.records.files import whole_file, write_json

PER_CLASS = 20  # embeddings the original keeps per class
_EPS = 1e-8  # of torch's CosineSimilarity
SUFFIX = ".safetensors"
Fallback = Literal["language", "mean"]


@dataclass(frozen=True)
class Prototypes:
    """What a model needs to know about its N classes beforehand.

    Attributes:
        classes: Names in class order.
        encoder: Name of the sentence encoder; empty when there are no similarities.
        similarities: float32 [N, N], cosines of the class texts; row and column in class order.
        embeddings: float32 [N, D], the texts' embeddings.
        visual: float32 [N, d], visual prototypes.
        texts: What was encoded for each class.
        notes: Where the numbers come from: split, classes without exemplars and what they got.
    """

    classes: tuple[str, ...]
    encoder: str = ""
    similarities: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    visual: np.ndarray | None = None
    texts: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes the arrays as safetensors, and names, texts and notes as JSON beside them.

        Raises:
            InputError: An array does not have one row per class, or is not finite.
        """
        from safetensors.numpy import save_file

        path = Path(path)
        self.check(path)
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in self._arrays().items()}
        description = {
            "classes": list(self.classes),
            "encoder": self.encoder,
            "texts": list(self.texts),
            "notes": dict(self.notes),
        }
        with whole_file(path) as temporary:
            save_file(arrays, temporary, metadata={"description": json.dumps(description, sort_keys=True)})
        write_json(path.with_suffix(".json"), description)

    @classmethod
    def load(cls, path: str | Path, *, classes: Sequence[str] | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            path: The safetensors file; names are read from it, the JSON beside it is for people.
            classes: Class order expected.

        Raises:
            CheckpointError: The file is missing, damaged, or of another class order.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="np") as stream:
                description = json.loads((stream.metadata() or {})["description"])
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a mapping
        except FileNotFoundError:
            raise CheckpointError("file not found", file=path, mend="run the stage that makes prototypes") from None
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise CheckpointError(f"no prototypes in this file ({error})", file=path, mend="make them again") from None
        found = cls(
            classes=tuple(description["classes"]),
            encoder=description["encoder"],
            texts=tuple(description["texts"]),
            notes=description["notes"],
            **{name: arrays.get(name) for name in ("similarities", "embeddings", "visual")},
        )
        if classes is not None and tuple(classes) != found.classes:
            raise CheckpointError(_order_differs(found.classes, tuple(classes)), file=path, mend="make them again")
        found.check(path)
        return found

    def check(self, file: str | Path | None = None) -> None:
        """Checks shapes and values.

        Raises:
            InputError: As said.
        """
        count = len(self.classes)
        for name, array in self._arrays().items():
            if len(array) != count or (name == "similarities" and array.shape != (count, count)):
                raise InputError(f"{name} are {array.shape} for {count} classes", file=file, field=name)
            if not np.isfinite(array).all():
                raise InputError(f"{name} hold NaN or infinity", file=file, field=name)

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {"similarities": self.similarities, "embeddings": self.embeddings, "visual": self.visual}
        return {name: array for name, array in named.items() if array is not None}


def _order_differs(found: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} classes, expected {len(wanted)}"
    place = next(n for n, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
    return f"class {place} is {found[place]!r}, expected {wanted[place]!r}: the class order differs"
