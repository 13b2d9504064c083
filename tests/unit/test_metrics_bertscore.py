import bert_score
import pytest
import torch
from sightline.metrics import MetricUnavailable, bertscore_name
from sightline.metrics.bertscore import bertscore_f1
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = "keep your back straight great job lower squat knees higher slow down nice pace".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


REFERENCES = ["keep your back straight", "great job", "lower squat", "great job", "slow down"] * 3
HYPOTHESES = ["keep your knees higher", "nice job", "great pace", "nice job", "slow down"] * 3


def test_equals_the_package(encoder):
    ours = bertscore_f1(REFERENCES, HYPOTHESES, encoder, 2, batch_size=4)
    _, _, expected = bert_score.score(
        HYPOTHESES, REFERENCES, model_type=str(encoder), num_layers=2, device="cpu", batch_size=64
    )
    assert ours == pytest.approx(expected.tolist(), abs=1e-6)
    assert max(ours) == pytest.approx(1.0, abs=1e-5)
    assert len(set(ours)) > 2


def test_order_and_repeats_change_no_bit(encoder):
    forward = bertscore_f1(REFERENCES, HYPOTHESES, encoder, 2)
    backward = bertscore_f1(REFERENCES[::-1], HYPOTHESES[::-1], encoder, 2)
    assert forward == backward[::-1]
    assert bertscore_f1(REFERENCES[:5], HYPOTHESES[:5], encoder, 2) == forward[:5]


def test_layers_matter_and_are_named(encoder):
    one, three = (bertscore_f1(REFERENCES[:2], HYPOTHESES[:2], encoder, layers) for layers in (1, 3))
    assert one != three
    assert bertscore_name("roberta-large", 17) == "bertscore_roberta-large_l17"


def test_absent_or_too_small_models_are_unavailable(encoder, tmp_path):
    with pytest.raises(MetricUnavailable, match=r"config\.json is missing"):
        bertscore_f1(["a"], ["b"], tmp_path / "nowhere", 2)
    with pytest.raises(MetricUnavailable, match="num_layers"):
        bertscore_f1(["a"], ["b"], encoder, 17)
    assert bertscore_f1([], [], encoder, 2) == []
