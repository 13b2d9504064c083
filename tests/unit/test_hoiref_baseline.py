"""Other models on HOI-QA: asked with their own spelling of boxes, scored by the same rules."""

from __future__ import annotations

import numpy as np
import pytest
from sightline.errors import ConfigError, InputError
from sightline.llm.base import Image, Reply
from sightline.systems.hoiref.annotations import Interaction, Referral
from sightline.systems.hoiref.baseline import BaselinePredictor, BaselineSettings
from sightline.systems.hoiref.boxes import FORMATS
from sightline.systems.hoiref.samples import build_samples
from sightline.systems.hoiref.score import score

SHOWN = (96, 54)


class Seeing:
    """Answers every question rightly, in one spelling."""

    name, fingerprint, takes_images = "stub", "stub", True

    def __init__(self, spelling):
        self.spelling, self.asked = FORMATS[spelling], []

    def generate(self, requests):
        replies = []
        for request in requests:
            self.asked.append(request)
            assert isinstance(request.messages[0].parts[0], Image)
            text = request.messages[0].text
            box = self.spelling.write([24.0, 13.5, 48.0, 40.5], SHOWN)
            if "What is inside" in text:
                assert box in text
                replies.append(Reply(request.id, " Cup.", "stop"))
            elif "hand is holding" in text:
                replies.append(Reply(request.id, "", "failed", reason="server gone"))
            else:
                replies.append(Reply(request.id, f"It is at {box}", "stop"))
        return replies


def samples():
    split = {
        "epic": [Referral("a", "v/f1.jpg", "cup", [480, 270, 960, 810])],
        "visor": [
            Interaction("h", "v/f1.jpg", "[vqa] What hand is holding the cup?", "left hand"),
            Interaction("m", "v/none.jpg", "[refer] Where is the left hand of the person?", [1, 2, 3, 4]),
        ],
    }
    return build_samples(split).samples


def picture(name):
    if "none" in name:
        raise InputError("the picture is missing", file=name)
    return np.zeros((SHOWN[1], SHOWN[0], 3), np.uint8)


@pytest.mark.parametrize("spelling", sorted(FORMATS))
def test_every_spelling_scores_alike(spelling):
    backend = Seeing(spelling)
    predictor = BaselinePredictor(backend, BaselineSettings(spelling, batch_limit=2), picture)
    found = predictor.predict(samples())
    assert [one.status for one in found] == ["ok", "ok", "failed", "failed"]
    assert [one.reason for one in found[2:]] == ["server gone", "the picture is missing"]
    rows, _ = score(samples(), found)
    table = {(row.id, row.metric): row for row in rows}
    for protocol in ("published", "corrected"):
        assert table["epic-a-ref", f"{protocol}_epic_box_accuracy_iou50"].value == 100
        assert table["epic-a-iden", f"{protocol}_epic_noun_accuracy"].value == 100
    asked = backend.asked[0].messages[0].text
    assert asked.startswith("Where is the cup? Answer with")


def test_a_model_without_eyes_or_a_known_spelling_is_refused():
    blind = Seeing("pixels")
    blind.takes_images = False
    with pytest.raises(InputError, match="reads text only"):
        BaselinePredictor(blind, BaselineSettings("pixels"), picture)
    with pytest.raises(ConfigError, match="box format"):
        BaselinePredictor(Seeing("pixels"), BaselineSettings("polar"), picture)
