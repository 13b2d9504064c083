"""vLLM's offline engine: paged attention, continuous batching, automatic prefix caching.

Prompts are made by the model's own chat template and handed over as tokens, and answers are turned into text by its
tokenizer here, so that the engine says what the backend `transformers` says of the same folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sightline.errors import BackendError, CheckpointError, DeviceError
from sightline.llm.base import END_OF_TURN, NEAR_TIE, Choices, Reply, Request, refuse_images
from sightline.llm.main_script import main_script_left_alone
from sightline.llm.pictures import openai_turns
from sightline.records.files import read_json

log = logging.getLogger(__name__)
_SHOWN = 200
_ELSEWHERE = "use the backend transformers for this folder, or a server of its own with the backend openai"


class VllmBackend:
    """A model folder run by vLLM's offline engine.

    Args:
        folder: Model in the Hugging Face layout.
        fingerprint: What decides the answers besides the request.
        dtype: `bfloat16` or `float32`.
        tensor_parallel: GPUs the model is spread over.
        eager: Neither compile nor record graphs: a faster start, slower answers.

    Raises:
        DeviceError: vLLM is not installed here, or finds no device that it can run on.
        CheckpointError: The folder holds no model, or one that vLLM does not support.
        BackendError: The engine did not start.
    """

    name = "vllm"

    def __init__(
        self,
        folder: str | Path,
        *,
        fingerprint: str,
        dtype: str = "bfloat16",
        tensor_parallel: int = 1,
        eager: bool = False,
    ) -> None:
        self.fingerprint = fingerprint
        self._folder = Path(folder)
        self._vllm = _import_vllm()
        self.takes_images = _takes_images(self._folder)
        self._engine: Any = self._start(dtype, tensor_parallel, eager)
        self._tokenizer: Any = self._engine.get_tokenizer()
        if not self._tokenizer.chat_template:
            self.close()
            raise CheckpointError(
                "the tokenizer has no chat template, so it is not a chat model",
                file=folder, mend="use an instruct model, or put its chat_template.jinja there",
            )  # fmt: skip
        vocabulary = self._tokenizer.get_vocab()
        self._stop_ids = sorted({vocabulary[token] for token in END_OF_TURN if token in vocabulary})
        self._longest = int(self._engine.model_config.max_model_len)

    def _start(self, dtype: str, tensor_parallel: int, eager: bool) -> Any:
        try:
            with main_script_left_alone():  # the engine's process must not run a job's script again
                return self._vllm.LLM(
                    model=str(self._folder), dtype=dtype, tensor_parallel_size=tensor_parallel,
                    enable_prefix_caching=True, enforce_eager=eager, disable_log_stats=True,
                )  # fmt: skip
        except (ValueError, OSError) as error:  # a refusal before the engine starts; RuntimeError comes from within
            reason = _first_line(error)
            raise CheckpointError(
                f"vLLM does not run this model ({reason})", file=self._folder, mend=_ELSEWHERE
            ) from None
        except RuntimeError as error:
            raise BackendError(
                f"vLLM's engine did not start ({_first_line(error)})", file=self._folder,
                mend=f"see its own messages above; give it more memory or GPUs, or {_ELSEWHERE}",
            ) from None  # fmt: skip

    def prompt_ids(self, request: Request) -> list[int]:
        """Returns the tokens of a text-only chat, ready for the model's turn."""
        turns = [{"role": message.role, "content": message.text} for message in request.messages]
        encoded = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(number) for number in encoded]

    def _parameters(self, request: Request) -> Any:
        sampling = request.sampling
        greedy = sampling.temperature == 0
        return self._vllm.SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k or -1,
            top_p=1.0 if greedy else sampling.top_p,
            seed=None if greedy else sampling.seed,
            stop_token_ids=self._stop_ids,
            logprobs=2 if greedy else None,  # tells near ties
            detokenize=False,
        )

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """See `Backend.generate`; the engine batches and reuses prefixes. What is too long fails alone."""
        if not self.takes_images:
            refuse_images(self.name, requests)
        found: dict[int, Reply] = {}
        prompts: dict[int, list[int]] = {}
        for number, request in enumerate(requests):
            if request.has_images:
                found[number] = self._answer_with_images(request)
                continue
            prompt, room = self.prompt_ids(request), self._longest - request.sampling.max_new_tokens
            if len(prompt) > room:
                found[number] = Reply.failed(
                    request.id, f"the prompt has {len(prompt)} tokens, the model has room for {max(0, room)}"
                )
            else:
                prompts[number] = prompt
        outputs = self._run(list(prompts.values()), [self._parameters(requests[number]) for number in prompts])
        for number, output in zip(prompts, outputs, strict=True):
            found[number] = self._reply(requests[number], output)
        return [found[number] for number in range(len(requests))]

    def _run(self, prompts: list[list[int]], parameters: Any) -> list[Any]:
        with self._engine_alive():
            return self._engine.generate([{"prompt_token_ids": one} for one in prompts], parameters, use_tqdm=False)

    @contextmanager
    def _engine_alive(self) -> Iterator[None]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            yield
        except (EngineDeadError, EngineGenerateError) as error:
            raise BackendError(
                f"vLLM's engine died ({_first_line(error)})", file=self._folder,
                mend=f"see its own messages above; give it more memory or GPUs, or {_ELSEWHERE}",
            ) from None  # fmt: skip

    def _answer_with_images(self, request: Request) -> Reply:
        turns, parameters = openai_turns(request.messages), self._parameters(request)
        try:
            with self._engine_alive():
                output = self._engine.chat(turns, parameters, use_tqdm=False)[0]
        except ValueError as error:  # too long, or too many pictures for this model
            return Reply.failed(request.id, _first_line(error))
        return self._reply(request, output)

    def _reply(self, request: Request, output: Any) -> Reply:
        answer = output.outputs[0]
        ended = answer.finish_reason == "stop"
        tokens = list(answer.token_ids)
        if ended and tokens and (tokens[-1] in self._stop_ids or tokens[-1] in self._tokenizer.all_special_ids):
            tokens.pop()
        return Reply(
            id=request.id,
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish="stop" if ended else "length",
            prompt_tokens=len(output.prompt_token_ids or ()),
            new_tokens=len(tokens),
            near_ties=sum(map(_is_near_tie, answer.logprobs or ())),
        )

    def score(self, requests: Sequence[Request], continuations: Sequence[str]) -> list[Choices]:
        """See `Backend.score`; reads the log-probabilities of the prompt with each continuation behind it."""
        refuse_images(self.name, requests)
        tails = [self._tokenizer.encode(text, add_special_tokens=False) for text in continuations]
        parameters = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        found = []
        for request in requests:
            prompt = self.prompt_ids(request)
            outputs = self._run([[*prompt, *tail] for tail in tails], parameters)
            sums = [
                sum(output.prompt_logprobs[len(prompt) + place][token].logprob for place, token in enumerate(tail))
                for output, tail in zip(outputs, tails, strict=True)
            ]
            found.append(Choices(request.id, tuple(sums)))
        return found

    def close(self) -> None:
        """Ends the engine's process."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown()
        self._engine = None


def _import_vllm() -> Any:
    try:
        import vllm
        from vllm.platforms import current_platform
    except ImportError as error:
        raise DeviceError(
            f"vLLM cannot be imported ({error})",
            mend="run in the environment envs/vllm.yaml on a GPU machine, or serve the model and give the judge `url`",
        ) from None
    if not current_platform.device_type:
        raise DeviceError(
            "vLLM finds no device it can run on; this build of it needs a GPU",
            mend="run on a GPU machine, use the backend transformers, or serve the model and give the judge `url`",
        )
    return vllm


def _takes_images(folder: Path) -> bool:
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError("no config.json here", file=folder, mend="give a folder in the Hugging Face layout")
    return "vision_config" in read_json(config)


def _is_near_tie(step: Any) -> bool:
    """Says whether the two likeliest tokens of a step, {token: entry}, are closer than `NEAR_TIE`."""
    best = sorted((entry.logprob for entry in step.values()), reverse=True)[:2]
    return len(best) == 2 and best[0] - best[1] < NEAR_TIE


def _first_line(error: Exception) -> str:
    """Returns the telling line of an error; validation errors begin with a count of themselves."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower() and "validation error" not in line]
    return (telling or lines or [""])[0][:_SHOWN]
