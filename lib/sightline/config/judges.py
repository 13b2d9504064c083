"""The typed form of config/judges and config/prompts. Light: the Snakefile imports it in every job."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sightline.config.models import AssetFile, Strict

SHA256 = r"^[0-9a-f]{64}$"


class PromptSource(Strict):
    """A published script whose text constants are the prompt; it is read, never run."""

    asset: str = Field(description="Asset that holds the script.")
    file: str = Field(description="The script inside the asset.")
    system: str = Field(description="Constant with the system turn.")
    user: str = Field(description="Constant with the user turn.")
    system_sha256: str | None = Field(None, pattern=SHA256, description="SHA-256 of the system turn.")
    user_sha256: str | None = Field(None, pattern=SHA256, description="SHA-256 of the user turn.")


class PromptCard(Strict):
    """A prompt of a judge, with the places that a pair fills."""

    title: str = Field(description="What it asks, for people.")
    version: int = Field(ge=1, description="Raise it with every change of the text; results name it, with a hash.")
    system: str | None = Field(None, description="System turn.")
    user: str | None = Field(None, description="User turn, with the marks of `placeholders`.")
    source: PromptSource | None = Field(None, description="Where the text is, if not here.")
    placeholders: dict[str, str] = Field(
        min_length=1, description="Field of a pair (`reference`, `candidate`) -> mark in the text."
    )
    care: Literal["full", "marks", "none"] = Field(
        "full",
        description="What is done to data first. `full`: one line without brackets that could be marks; `marks`: "
        "control marks of chat templates are broken; `none`: nothing.",
    )
    fill: Literal["one_pass", "published"] = Field(
        "one_pass", description="`published` replaces one mark after the other, so data can swallow data."
    )
    parse: Literal["strict", "published"] = Field(
        "strict",
        description="How the answer is read. `strict`: one JSON object with a whole number from 1 to 5; "
        "`published`: any number in a Python dictionary. Else the pair is unscored.",
    )

    @model_validator(mode="after")
    def _one_text(self) -> PromptCard:
        if (self.user is None) == (self.source is None):
            raise ValueError("give either `user` (and `system`) or `source`")
        return self


class JudgeCard(Strict):
    """A language model that grades pairs of reference and candidate."""

    title: str = Field(description="Name for people.")
    backend: Literal["mock", "transformers", "vllm", "openai", "replay"] = Field(
        description="`mock`: no model, deterministic, means nothing; `transformers`: a model folder in the job "
        "itself; `vllm`: the same with vLLM (`weights`), or a vLLM server (`url` and `model`); `openai`: any server of "
        "that interface; `replay`: answers from a file."
    )
    prompt: str = Field(description="Prompt, from config/prompts.")
    weights: AssetFile | None = Field(None, description="Model folder (transformers, vllm).")
    url: str | None = Field(None, description="Base address of the server, up to /v1 (openai, vllm).")
    model: str | None = Field(None, description="Model name the server knows (openai, vllm).")
    revision: str = Field("1", description="Raise it when the server's model changes; answers are then asked anew.")
    api_key_file: str | None = Field(None, description="File whose first line is the key (openai, vllm).")
    replies: str | None = Field(None, description="File of recorded answers (replay).")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Precision of a model folder.")
    max_new_tokens: int = Field(64, ge=1, description="Longest answer in tokens.")
    temperature: float = Field(0.0, ge=0, description="0 is greedy.")
    top_k: int = Field(0, ge=0, description="Only so many likeliest tokens are drawn from; 0 is all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Smallest set of tokens with this probability is drawn from.")
    seed: int = Field(0, ge=0, description="Seed of the draws.")
    repeats: int = Field(1, ge=1, description="Answers per pair; needs a temperature. Mean and spread are reported.")
    batch_size: int = Field(8, ge=1, description="Pairs asked at once.")
    timeout_s: float = Field(120.0, gt=0, description="Longest wait for an answer (openai, vllm server).")
    attempts: int = Field(5, ge=1, description="Tries per request (openai, vllm server).")
    failed_replies: int = Field(
        0, ge=0, description="Requests that may stay without an answer before the stage stops; answers are kept."
    )
    as_published: bool = Field(
        False, description="Model, prompt and decoding are the paper's; only then its number stands beside the paper's."
    )
    gpus: int = Field(0, ge=0, description="GPUs of the job; 0 runs on the CPU or needs none.")
    cpu_threads: int = Field(1, ge=1, description="Intra-op threads on a CPU.")
    mem_mb: int = Field(4000, gt=0, description="Host memory of the job.")

    @model_validator(mode="after")
    def _complete(self) -> JudgeCard:
        if self.backend == "vllm" and (self.weights is None) == (self.url is None):
            raise ValueError("the backend vllm needs `weights` (offline), or `url` and `model` (a server), not both")
        needs = {"transformers": ("weights",), "openai": ("url", "model"), "replay": ("replies",)}
        needs["vllm"] = needs["openai"] if self.url else needs["transformers"]
        for name in needs.get(self.backend, ()):
            if getattr(self, name) is None:
                raise ValueError(f"the backend {self.backend} needs `{name}`")
        if self.repeats > 1 and self.temperature == 0:
            raise ValueError("repeats need a temperature; greedy answers are all the same")
        return self
