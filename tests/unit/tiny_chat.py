"""A chat model of a few hundred kilobytes, made here: random weights from a seed, a tokenizer trained on the spot."""

from pathlib import Path

import torch
from sightline.llm.tiny_tokenizer import train_tiny_tokenizer
from sightline.records.files import read_json, write_json
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

TEXTS = [
    "Keep your back straight while you go down.",
    "Great job, that is five squats!",
    "Lift both arms over your head and breathe.",
    'The score is {"score": 3} or {"score": 5}.',
    "You compare what a coach said with the reference.",
]
TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MARKS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_tiny_chat(folder: Path, *, seed: int = 0, hidden: int = 64, layers: int = 3, template: bool = True) -> Path:
    """Writes a LLaMA with random weights and a tokenizer with a chat template; returns the folder."""
    size = train_tiny_tokenizer(TEXTS, 420, MARKS, folder)
    settings = read_json(folder / "tokenizer_config.json")
    if template:
        write_json(folder / "tokenizer_config.json", settings | {"chat_template": TEMPLATE})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=size, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=2, intermediate_size=2 * hidden, max_position_embeddings=1024,
            initializer_range=0.3, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=2, bos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


SEEING_TEMPLATE = TEMPLATE.replace(
    "{{ m['content'] }}",
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}",
)


def make_tiny_seeing_chat(folder: Path) -> Path:
    """Writes a LLaVA with random weights that takes pictures of any size; returns the folder."""
    size = train_tiny_tokenizer(TEXTS, 420, [*MARKS, "<image>"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**common, image_size=16, patch_size=8),
        text_config=LlamaConfig(**common, vocab_size=size, max_position_embeddings=256, initializer_range=0.3),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", chat_template=SEEING_TEMPLATE, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
