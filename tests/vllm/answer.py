"""Run by `vllm_cpu.py` in the environment with vLLM: what the offline engine answers and refuses.

There is no guard around the code, as there is none in a job's script: the engine's own process must not run it again.

python answer.py FOLDER TEXT_ONLY_BROKEN_FOLDER TARGET
"""

import json
import sys
from pathlib import Path

import numpy as np
from sightline.errors import SightlineError
from sightline.llm.backend_vllm import VllmBackend
from sightline.llm.base import Image, Message, Request, Sampling

from tests.vllm.questions import CONTINUATIONS, questions

folder, unsupported, target = map(Path, sys.argv[1:])
runs = target.with_suffix(".runs")
runs.write_text(f"{runs.read_text() if runs.exists() else ''}run\n")


def refusal(call):
    try:
        call()
    except SightlineError as error:
        return [type(error).__name__, str(error)]
    return None


backend = VllmBackend(folder, fingerprint="f", dtype="float32", eager=True)
tokens: dict[str, list[int]] = {}
reply_of = backend._reply
backend._reply = lambda request, output: (
    tokens.update({request.id: list(output.outputs[0].token_ids)}) or reply_of(request, output)
)
replies = backend.generate(questions())
picture = Request("seen", (Message.of("user", Image(np.zeros((8, 8, 3), np.uint8))),))
drawn = [Request(f"d{n}", questions()[0].messages, Sampling(8, 1.0, 0, 1.0, seed=n // 2)) for n in range(4)]
found = {
    "replies": [vars(reply) for reply in replies],
    "tokens": tokens,
    "choices": [one.log_probabilities for one in backend.score(questions()[:2], CONTINUATIONS)],
    "drawn": [reply.text for reply in backend.generate(drawn)],
    "picture": refusal(lambda: backend.generate([picture])),
}
backend.close()
found["unsupported"] = refusal(lambda: VllmBackend(unsupported, fingerprint="f", dtype="float32"))
target.write_text(json.dumps(found))
