"""The client of a vLLM server; needs no vLLM here."""

from __future__ import annotations

import httpx

from sightline.errors import BackendError, InputError
from sightline.llm.backend_openai import OpenAiBackend


class VllmServer(OpenAiBackend):
    """A model behind `vllm serve`, spoken to through the OpenAI interface; see there for the arguments."""

    name = "vllm"

    def check_model(self) -> None:
        """Asks the server which models it serves.

        Raises:
            InputError: Ours is not among them.
            BackendError: Nothing answers at this address, or not with a list of models.
        """
        try:
            response = self._client.get(f"{self._url}/models")
            served = [str(entry["id"]) for entry in response.json()["data"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise BackendError(
                f"no vLLM server tells its models here ({type(error).__name__})",
                file=self._url, mend="start `vllm serve MODEL`, or correct `url` of the judge (it ends in /v1)",
            ) from None  # fmt: skip
        if self._model not in served:
            raise InputError(
                f"the server does not serve this model; it serves {', '.join(served) or 'none'}",
                file=self._url, item=self._model, field="model",
                mend="name a served model, or start the server with --served-model-name",
            )  # fmt: skip
