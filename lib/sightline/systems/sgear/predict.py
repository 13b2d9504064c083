"""A block of actions in, what is anticipated before each of them out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sightline.features.store import FeatureStore
from sightline.records.files import content_key
from sightline.records.types import Prediction, Sample
from sightline.run.shards import sample_key
from sightline.systems.sgear.feature_lmdb import FeatureReader
from sightline.systems.sgear.logits import TOP, best
from sightline.systems.sgear.model.sgear import Sgear
from sightline.systems.sgear.records import Anticipation, SgearPayload
from sightline.systems.sgear.windows import WindowSettings, feature_window, is_kept


@dataclass(frozen=True)
class Inputs:
    """What the model is shown of some samples.

    Attributes:
        values: Features float32 [B, T, D], or frames scaled to [-1, 1], float32 [B, T, (crops,) 3, H, W].
        missing: Slots that are zeros because nothing was stored, bool [B, T].
        empty: Samples of which nothing at all was stored, bool [B]; they are not answered.
    """

    values: np.ndarray
    missing: np.ndarray
    empty: np.ndarray


ReadInputs = Callable[[Sequence[SgearPayload]], Inputs]
NON_FINITE = "non_finite"
NO_FEATURES = "no_features"


def feature_inputs(reader: FeatureReader, windows: WindowSettings) -> ReadInputs:
    """Returns a reader of stored features in the windows of the payloads."""

    def read(payloads: Sequence[SgearPayload]) -> Inputs:
        asked = [feature_window(one.video_id, one.start, one.end, windows) for one in payloads]
        values, missing = reader.read(asked)
        empty = [bool(row.all()) and reader.is_empty(window) for row, window in zip(missing, asked, strict=True)]
        return Inputs(values, missing, np.array(empty, bool))

    return read


@dataclass(frozen=True)
class PredictSettings:
    """How samples are answered.

    Attributes:
        batch_limit: Most samples in one forward pass.
        horizons: Further anticipation times, seconds before the action; windows keep their length.
    """

    batch_limit: int = 64
    horizons: tuple[float, ...] = ()


class SgearPredictor:
    """Runs S-GEAR over blocks of samples, in float32.

    With `token_mixing: per_sample` a sample's answer depends on it alone (up to rounding by the shape of a batch);
    with `original` on its whole block, which is then one batch, as in the released code.

    Args:
        model: In eval mode.
        read: What the model is shown.
        settings: Batches and horizons.
        store: Where logits go; None keeps none.
        run_key: What decides a prediction besides its sample; part of the keys in the store.
    """

    def __init__(
        self,
        model: Sgear,
        read: ReadInputs,
        settings: PredictSettings,
        *,
        store: FeatureStore | None = None,
        run_key: str = "",
        text: torch.Tensor | None = None,
    ) -> None:
        self.batch_limit = settings.batch_limit
        self._model, self._read, self._settings = model, read, settings
        self._store, self._run_key, self._text = store, run_key, text

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Answers one block, in its order.

        A sample without any feature, or whose features or logits hold NaN, is `failed` with a reason. Of the others
        `output` is an `Anticipation`, and `files["logits"]` names item, row and digest in the store: arrays `logits`
        (float32 [ok samples, A]), `position` in the block, and `missing` frames.

        Raises:
            InputError: A payload is malformed, or its features do not fit the model.
            StoreError: Features cannot be read.
        """
        payloads = [SgearPayload.from_json(one.payload, item=one.id) for one in samples]
        key = content_key("sgear logits", self._run_key, [sample_key(one) for one in samples])
        arrays = self._stored(key) or self._compute(payloads)
        files: dict[str, Any] = {}
        if self._store is not None and len(arrays["position"]):
            files = {"key": key, "digest": self._store.put(key, arrays).digest}
        return _answers(samples, arrays, files, self._settings.horizons)

    def _stored(self, key: str) -> dict[str, np.ndarray] | None:
        """Returns what an earlier attempt computed for this block: on a GPU it need not be the same bits twice."""
        return self._store.read(key) if self._store is not None and key in self._store else None

    def _compute(self, payloads: list[SgearPayload]) -> dict[str, np.ndarray]:
        logits, missing, empty = self.logits(payloads)
        position = np.flatnonzero(np.isfinite(logits).all(axis=1) & ~empty)
        arrays = {
            "logits": logits[position],
            "position": position,
            "missing": missing.sum(axis=1).astype(np.int64),
            "empty": empty,
        }
        if self._settings.horizons:
            arrays["horizon_top"] = self._horizons(payloads)
        return arrays

    def logits(self, payloads: Sequence[SgearPayload]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns raw logits float32 [B, A], missing frames bool [B, T], samples without any frame bool [B]."""
        size = self.batch_limit if self._model.config.token_mixing == "per_sample" else max(1, len(payloads))
        logits, missing, empty = [], [], []
        for start in range(0, len(payloads), size):
            inputs = self._read(payloads[start : start + size])
            logits.append(self._forward(inputs.values))
            missing.append(inputs.missing)
            empty.append(inputs.empty)
        return np.concatenate(logits), np.concatenate(missing), np.concatenate(empty)

    @torch.inference_mode()
    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        device = self._model.vis_prototypes.device
        video = torch.from_numpy(np.ascontiguousarray(inputs, np.float32)).to(device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            made = self._model(video, text=self._text, with_past=False).logits
        return made.float().cpu().numpy()

    def _horizons(self, payloads: list[SgearPayload]) -> np.ndarray:
        """Returns the best classes at each horizon, int64 [B, horizons, 5]; -1 where the window has no frame."""
        width = min(TOP, self._model.config.classes)
        found = np.full((len(payloads), len(self._settings.horizons), width), -1, np.int64)
        for place, tau in enumerate(self._settings.horizons):
            moved = [shifted(one, tau) for one in payloads]
            rows = [row for row, one in enumerate(moved) if is_kept(one.start, one.end, "correct")]
            if rows:
                logits, _, empty = self.logits([moved[row] for row in rows])
                good = np.isfinite(logits).all(axis=1) & ~empty
                found[np.array(rows)[good], place] = best(logits[good])
        return found


def shifted(payload: SgearPayload, tau_a: float) -> SgearPayload:
    """Returns the payload with its window moved to end `tau_a` seconds before the action."""
    end = payload.action_start - tau_a
    return replace(payload, start=end - (payload.end - payload.start), end=end)


def _answers(
    samples: Sequence[Sample], arrays: dict[str, np.ndarray], files: dict[str, Any], horizons: tuple[float, ...]
) -> list[Prediction]:
    row_of = {int(place): row for row, place in enumerate(arrays["position"])}
    top = best(arrays["logits"]) if row_of else arrays["position"]
    answers = []
    for place, sample in enumerate(samples):
        row = row_of.get(place)
        if row is None:
            reason = NO_FEATURES if arrays["empty"][place] else NON_FINITE
            answers.append(Prediction(sample.id, "failed", reason))
            continue
        values = arrays["logits"][row][top[row]].tolist()
        at = {f"{tau:g}": arrays["horizon_top"][place, number].tolist() for number, tau in enumerate(horizons)}
        output = Anticipation(top[row].tolist(), values, int(arrays["missing"][place]), at)
        kept = {"logits": {**files, "row": row}} if files else {}
        answers.append(Prediction(sample.id, "ok", output=output.to_json(), files=kept))
    return answers
