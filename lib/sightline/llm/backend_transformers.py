"""A model folder in the Hugging Face layout, run in this process.

Text goes through our own decoding with a shared prefix; requests with pictures go through the model's own
processor and `generate`, one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sightline.errors import CheckpointError
from sightline.llm.base import END_OF_TURN, Choices, Frames, Image, Reply, Request, Text, refuse_images
from sightline.llm.prefix import PrefixDecoder, continuation_scores

log = logging.getLogger(__name__)


class TransformersBackend:
    """A causal language model, or one that also takes pictures.

    Args:
        folder: `config.json`, weights and tokenizer.
        fingerprint: What decides the answers besides the request.
        device: `cpu` or `cuda`; on `cuda` a model larger than one GPU is spread over all.
        dtype: `float32` or `bfloat16`.
        batch_size: Most requests at once; halved when the device runs out of memory.
        share_prefix: Compute what all prompts of a call begin with only once.

    Raises:
        CheckpointError: The folder holds no such model, or its tokenizer has no chat template.
    """

    name = "transformers"

    def __init__(
        self,
        folder: str | Path,
        *,
        fingerprint: str,
        device: str = "cpu",
        dtype: str = "float32",
        batch_size: int = 8,
        share_prefix: bool = True,
    ) -> None:
        self.fingerprint = fingerprint
        self._folder = Path(folder)
        placed = {"": device} if device == "cpu" else "auto"
        try:
            config = AutoConfig.from_pretrained(self._folder, local_files_only=True)
            self.takes_images = hasattr(config, "vision_config")
            self._processor = self._load_processor() if self.takes_images else None
            tokenizer = self._processor.tokenizer if self._processor else None
            self._tokenizer: Any = tokenizer or AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
            kind = self._image_model() if self.takes_images else AutoModelForCausalLM
            self._model: Any = kind.from_pretrained(
                self._folder, dtype=getattr(torch, dtype), device_map=placed, local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0][:200]
            raise CheckpointError(
                f"no model that transformers can load ({reason})",
                file=self._folder,
                mend="give a folder with config.json, *.safetensors and the tokenizer",
            ) from None
        if not (self._tokenizer.chat_template or getattr(self._processor, "chat_template", None)):
            raise CheckpointError(
                "the tokenizer has no chat template, so it is not a chat model",
                file=self._folder,
                mend="use an instruct model, or put its chat_template.jinja there",
            )
        self._decoder = PrefixDecoder(self._model, self._stop_ids(), batch_size=batch_size, share=share_prefix)
        self._longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        log.info("%s: %s on %s", self._folder.name, type(self._model).__name__, self._model.device)

    def _load_processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self._folder, local_files_only=True)

    @staticmethod
    def _image_model() -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    def _stop_ids(self) -> list[int]:
        declared = self._model.generation_config.eos_token_id
        ids = set(declared if isinstance(declared, list) else [declared]) | {self._tokenizer.eos_token_id}
        vocabulary = self._tokenizer.get_vocab()
        return sorted((ids | {vocabulary.get(token) for token in END_OF_TURN}) - {None})

    def prompt_ids(self, request: Request) -> list[int]:
        """Returns the tokens of a text-only chat, ready for the model's turn."""
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        encoded = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(number) for number in encoded]

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`; a prompt longer than the model's context fails alone."""
        if not self.takes_images:
            refuse_images(self.name, requests)
        found: dict[int, Reply] = {}
        prompts: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            if request.has_images:
                found[number] = self._answer_with_images(request)
                continue
            prompt = self.prompt_ids(request)
            room = (self._longest or len(prompt) + request.sampling.max_new_tokens) - request.sampling.max_new_tokens
            if len(prompt) > room:
                found[number] = Reply.failed(
                    request.id, f"the prompt has {len(prompt)} tokens, the model has room for {max(0, room)}"
                )
            else:
                prompts[number] = prompt
        decoded = self._decoder.decode(list(prompts.values()), [requests[number].sampling for number in prompts])
        for (number, prompt), answer in zip(prompts.items(), decoded, strict=True):
            found[number] = Reply(
                id=requests[number].id,
                text=self._tokenizer.decode(answer.tokens, skip_special_tokens=True),
                finish="stop" if answer.ended else "length",
                prompt_tokens=len(prompt),
                new_tokens=len(answer.tokens),
                near_ties=answer.near_ties,
            )
        return [found[number] for number in range(len(requests))]

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """See `Backend.score`; each prompt is computed once for all continuations."""
        refuse_images(self.name, requests)
        tails = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
        return [
            Choices(request.id, tuple(continuation_scores(self._model, self.prompt_ids(request), tails)))
            for request in requests
        ]

    @torch.inference_mode()
    def _answer_with_images(self, request: Request) -> Reply:
        assert self._processor is not None
        inputs = self._processor.apply_chat_template(
            [{"role": message.role, "content": _content(message.parts)} for message in request.messages],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)  # fmt: skip
        sampling = request.sampling
        drawn = {
            "do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
        }  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            output = self._model.generate(
                **inputs,
                **(drawn if sampling.temperature > 0 else {"do_sample": False}),
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=sorted(self._decoder.stop_ids),
            )
        count = inputs["input_ids"].shape[1]
        tokens = output[0, count:].tolist()
        ended = bool(tokens) and tokens[-1] in self._decoder.stop_ids
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Reply(request.id, text, "stop" if ended else "length", count, len(tokens) - ended)

    def close(self) -> None:
        """Drops the model."""
        self._model = None
        self._decoder = PrefixDecoder(None, ())


def _content(parts: Sequence[Text | Image | Frames]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        elif isinstance(part, Image):
            content.append({"type": "image", "image": part.pixels})
        else:
            content += [{"type": "image", "image": frame} for frame in part.pixels]
    return content
