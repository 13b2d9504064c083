"""Class texts, language similarities and resized prototypes against the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import find, load_json
from sightline.errors import InputError
from sightline.systems.sgear.prototypes import (
    cosine_table,
    import_legacy,
    language_prototypes,
    open_encoder,
    resize_channels,
)
from sightline.systems.sgear.texts import salads_action_texts, texts_of_csv

TEXTS = load_json("sgear", "prototypes", "texts.json") or {}
FORMS = {"epic100": "ek100", "epic55": "ek55", "egtea": "egtea", "50salads_function": "salads"}
UNIQUE = "50salads_unique_actions"
AS_MAIN = "50salads_as_main_runs_it"


def _arrays(name):
    path = find("sgear", "prototypes", name)
    return {} if path is None else dict(np.load(path, allow_pickle=False))


ROWS, MINILM = _arrays("similarities.npz"), _arrays("minilm.npz")
SENTENCES = load_json("sgear", "prototypes", "minilm_texts.json") or []


def _text_cases():
    return [
        pytest.param(group, case, id=f"sgear-texts-{group}-{case}")
        for group in TEXTS
        if group in (*FORMS, AS_MAIN)
        for case in TEXTS[group]
    ]


@pytest.mark.parametrize(("group", "case"), _text_cases())
def test_texts(group, case):
    content, expected = TEXTS[group][case]["csv"], TEXTS[group][case]["result"]
    form = FORMS.get(group, "egtea")  # the program takes every other name for a table like EGTEA's
    if "error" in expected:
        with pytest.raises(InputError, match=r"line 1|fields"):
            texts_of_csv(content, form)
        return
    found = texts_of_csv(content, form)
    assert found.actions == expected["actions"]
    assert list(found.actions) == expected["order"]
    for part in ("verbs", "nouns"):
        assert getattr(found, part) == expected.get(part, {})


@pytest.mark.parametrize("case", [pytest.param(TEXTS[UNIQUE], id="sgear-texts-unique")] if UNIQUE in TEXTS else [])
def test_distinct_actions(case):
    labels = [line.split()[2] for text in case["files"].values() for line in text.splitlines() if line.strip()]
    assert salads_action_texts(labels) == case["result"]


def _numbers():
    return sorted({int(name.removeprefix("emb")) for name in ROWS if name.startswith("emb")})


@pytest.mark.parametrize("number", [pytest.param(n, id=f"sgear-similarities-{n}") for n in _numbers()])
def test_similarities(number, tmp_path):
    embeddings = ROWS[f"emb{number}"]
    table = cosine_table(embeddings)
    assert table.dtype == np.float32
    np.testing.assert_allclose(table, ROWS[f"sim{number}"][:, 0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(table, ROWS[f"sim_matrix_fn{number}"], rtol=1e-6, atol=1e-6)
    resized = ROWS[f"interp{number}"]
    np.testing.assert_allclose(resize_channels(embeddings, resized.shape[1]), resized, rtol=1e-6, atol=1e-6)
    files = {"encodings": embeddings, "similarities": ROWS[f"sim{number}"], "visual": embeddings}
    for name, rows in files.items():
        torch.save({label: torch.from_numpy(row) for label, row in enumerate(rows)}, tmp_path / f"{name}.pth")
    names = [f"class {label}" for label in range(len(embeddings))]
    legacy = import_legacy(names, encoder="?", **{name: tmp_path / f"{name}.pth" for name in files})
    assert np.array_equal(legacy.similarities, ROWS[f"sim{number}"][:, 0])
    assert np.array_equal(legacy.embeddings, embeddings)
    assert np.array_equal(legacy.visual, embeddings)


@pytest.mark.parametrize("texts", [pytest.param(SENTENCES, id="sgear-minilm")] if SENTENCES and MINILM else [])
def test_offline_encoder(texts):
    found = language_prototypes(texts, texts, open_encoder(), "all-MiniLM-L6-v2")
    np.testing.assert_allclose(found.embeddings, MINILM["embeddings"], atol=1e-4)
    np.testing.assert_allclose(found.similarities, MINILM["similarities"][:, 0], atol=1e-4)
