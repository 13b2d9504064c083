"""vLLM in this process: paged attention, continuous batching, automatic prefix caching. GPU machines only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline.errors import DeviceError
from sightline.llm.base import Choices, Reply, Request, refuse_images
from sightline.llm.pictures import openai_turns


class VllmBackend:
    """A model folder served by vLLM's offline engine.

    Args:
        folder: Model in the Hugging Face layout.
        fingerprint: What decides the answers besides the request.
        dtype: `bfloat16`, `float32` or `auto`.
        tensor_parallel: GPUs the model is spread over.
        takes_images: The model's chat accepts pictures.

    Raises:
        DeviceError: vLLM is not installed here.
    """

    name = "vllm"

    def __init__(
        self,
        folder: str | Path,
        *,
        fingerprint: str,
        dtype: str = "bfloat16",
        tensor_parallel: int = 1,
        takes_images: bool = False,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise DeviceError(
                f"vLLM cannot be imported ({error})",
                mend="run in the environment envs/vllm.yaml on a GPU machine, or serve the model and use `openai`",
            ) from None
        self.fingerprint = fingerprint
        self.takes_images = takes_images
        self._vllm: Any = vllm
        self._engine: Any = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            tensor_parallel_size=tensor_parallel,
            enable_prefix_caching=True,
        )

    def _parameters(self, request: Request, **more: Any) -> Any:
        sampling = request.sampling
        return self._vllm.SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k or -1,
            top_p=sampling.top_p,
            seed=sampling.seed if sampling.temperature > 0 else None,
            **more,
        )

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`; the engine batches and reuses prefixes by itself."""
        if not self.takes_images:
            refuse_images(self.name, requests)
        outputs = self._engine.chat(
            [openai_turns(request.messages) for request in requests],
            [self._parameters(request) for request in requests],
            use_tqdm=False,
        )
        return [_reply(request, output) for request, output in zip(requests, outputs, strict=True)]

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """See `Backend.score`; reads the log-probabilities of the prompt with each continuation behind it."""
        refuse_images(self.name, requests)
        tokenizer = self._engine.get_tokenizer()
        tails = [tokenizer.encode(text, add_special_tokens=False) for text in continuations]
        parameters = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
        found = []
        for request in requests:
            turns = [{"role": message.role, "content": message.text} for message in request.messages]
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
            whole = [{"prompt_token_ids": [*prompt, *tail]} for tail in tails]
            outputs = self._engine.generate(whole, parameters, use_tqdm=False)
            sums = [
                sum(output.prompt_logprobs[len(prompt) + place][token].logprob for place, token in enumerate(tail))
                for output, tail in zip(outputs, tails, strict=True)
            ]
            found.append(Choices(request.id, tuple(sums)))
        return found

    def close(self) -> None:
        """Drops the engine."""
        self._engine = None


def _reply(request: Request, output: Any) -> Reply:
    answer = output.outputs[0]
    return Reply(
        id=request.id,
        text=answer.text,
        finish="stop" if answer.finish_reason == "stop" else "length",
        prompt_tokens=len(output.prompt_token_ids or ()),
        new_tokens=len(answer.token_ids),
    )
