"""Full-size decoding on a GPU: seconds per step of a 7B model with random weights in bf16, over the bandwidth model.

python -m benchmarks.bench_gpu [--batches 1 8 32] [--context 200] [--steps 32]

Writes `gpu_results.json`, which the page docs/performance.md shows. Without a GPU it says so and writes nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from sightline.records.files import write_json

from benchmarks.bandwidth import DECODERS, Decoder, class_of
from benchmarks.timing import spread

RESULTS = Path(__file__).with_name("gpu_results.json")
REFUSAL = "no GPU here: full-size shapes are not run on a CPU; run this on a machine with one"


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def random_model(shape: Decoder, device: str) -> Any:
    """Returns a LLaMA of this shape with random bf16 weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate,
        max_position_embeddings=4096,
    )  # fmt: skip
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)


@torch.inference_mode()
def decode_seconds(model: Any, batch: int, context: int, steps: int, device: str) -> list[float]:
    """Returns the seconds of each decoding step behind a prefilled cache of `context` tokens."""
    ids = torch.arange(batch * context, device=device).reshape(batch, context) % model.config.vocab_size
    found = model(ids, use_cache=True, logits_to_keep=1)
    taken = []
    for _ in range(steps):
        token = found.logits[:, -1:].argmax(-1)
        _synchronise(device)
        started = time.perf_counter()
        found = model(token, past_key_values=found.past_key_values, use_cache=True)
        _synchronise(device)
        taken.append(time.perf_counter() - started)
    return taken


def read_bandwidth(device: str, size: int) -> float:
    """Returns bytes per second of reading a tensor of `size` bytes once: the limit that this device really has."""
    values = torch.ones(size // 2, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(5):
        _synchronise(device)
        started = time.perf_counter()
        values.max()
        _synchronise(device)
        best = min(best, time.perf_counter() - started)
    return size / best


def measure(
    shape: Decoder, batches: list[int], context: int, steps: int, device: str, *, peak: float | None, read_bytes: int
) -> dict[str, Any]:
    """Returns seconds per step, tokens per second and fractions of the bandwidth, per batch size.

    Args:
        shape: The model.
        batches: Batch sizes.
        context: Tokens in the cache before the first step.
        steps: Steps; the first is not counted.
        device: `cuda`, or `cpu` to try the logic.
        peak: The data sheet's bandwidth in bytes per second, if it is known.
        read_bytes: Size of the tensor that the limit arm reads.
    """
    limit = read_bandwidth(device, read_bytes)
    model = random_model(shape, device)
    rows = []
    for batch in batches:
        step = spread(decode_seconds(model, batch, context, steps + 1, device)[1:])
        moved = shape.step_bytes(batch, context + steps // 2)
        rate = moved / step["median_s"]
        rows.append(
            {
                "batch": batch,
                **step,
                "bytes": moved,
                "tokens_per_s": batch / step["median_s"],
                "of_read_bandwidth": rate / limit,
                "of_peak": rate / peak if peak else None,
            }
        )
    return {"model": shape.name, "context": context, "steps": steps, "read_bytes_per_s": limit, "rows": rows}


def run(rounds: int) -> list[dict[str, Any]]:
    """`make bench` runs no full-size shapes; on a GPU machine they have a command of their own."""
    print("no full-size shapes here; on a machine with a GPU: python -m benchmarks.bench_gpu")
    return []


def main() -> None:
    """Measures and writes the results; exit status 1 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--context", type=int, default=200)
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(REFUSAL)
    name = torch.cuda.get_device_name()
    known = class_of(name)
    shape = next(model for model in DECODERS if not model.extra)  # the plain 7B model
    found = measure(
        shape, arguments.batches, arguments.context, arguments.steps, "cuda",
        peak=known.bandwidth if known else None, read_bytes=8 << 30,
    )  # fmt: skip
    write_json(RESULTS, {"device": name, "torch": str(torch.__version__), "decode": [found]})
    for row in found["rows"]:
        print(f"batch {row['batch']}: {row['tokens_per_s']:.0f} tokens/s, {row['of_read_bandwidth']:.2f} of reading")


if __name__ == "__main__":
    main()
