"""Writes the tables of docs/performance.md: python -m benchmarks.performance_page

Ratios come from `results.json` (`make bench`), GPU figures from `gpu_results.json` (`python -m benchmarks.bench_gpu`)
if that was ever run, and the bounds from the model in `bandwidth.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.records.files import read_json

from benchmarks.__main__ import number, verdict
from benchmarks.bandwidth import DECODERS, GPUS, WORK, decode_bounds
from benchmarks.bench_gpu import RESULTS as GPU_RESULTS
from benchmarks.tables import cells, fill_page

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
NOT_MEASURED = "no GPU was available"


def ratios_table(document: dict[str, Any]) -> str:
    """Returns every measured ratio with its target or guard."""
    rows = [
        [row["name"], label, number(ratio), verdict(row, label), row.get("note", "")]
        for row in document["rows"]
        for label, ratio in row["ratios"].items()
    ]
    machine = document["machine"]
    head = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {document['rounds']} rounds."
    return f"{head}\n\n" + cells(["benchmark", "ratio", "measured", "target or guard", "what was run"], rows)


def bytes_table() -> str:
    """Returns what a decoding step moves."""
    rows = [
        [model.name, f"{model.parameters / 1e9:.2f} B x {model.weight_bytes:g}",
         f"{model.parameters * model.weight_bytes / 1e9:.1f}", f"{model.kv_bytes / 1e6:.2f}", str(model.context),
         f"{model.step_bytes(1) / 1e9:.1f}", f"{model.step_bytes(32) / 1e9:.1f}"]
        for model in DECODERS
    ]  # fmt: skip
    head = [
        "model",
        "weights x bytes",
        "weights GB",
        "cache MB per token",
        "tokens in cache",
        "GB per step",
        "at batch 32",
    ]
    return cells(head, rows)


def _measured(found: dict[str, Any] | None, model: str, batch: int) -> str:
    for run in (found or {}).get("decode", []):
        for row in run["rows"]:
            if run["model"] == model and row["batch"] == batch:
                assert found is not None
                of_peak = f", {row['of_peak']:.2f} of the model" if row["of_peak"] else ""
                return f"{row['tokens_per_s']:,.0f} tokens/s on {found['device']}{of_peak}"
    return NOT_MEASURED if found is None else "not run"


def decode_table(found: dict[str, Any] | None) -> str:
    """Returns the most tokens per second per class of GPU, and what was measured."""
    rows = [
        [model.name, str(batch), *(f"{rate:,.0f}" for rate in rates), _measured(found, model.name, batch)]
        for model, batch, rates in decode_bounds((1, 32))
    ]
    return cells(["model", "batch", *(gpu.name for gpu in GPUS), "measured on a GPU"], rows)


def work_table() -> str:
    """Returns the seconds of stages that arithmetic bounds."""
    rows = [
        [one.name, f"{one.tera_operations:g}", f"{100 * one.share:.0f} %",
         *(f"{one.tera_operations * 1e12 / (gpu.flops * one.share):.2f}" for gpu in GPUS), NOT_MEASURED]
        for one in WORK
    ]  # fmt: skip
    return cells(["stage", "TFLOP", "share of peak", *(f"{gpu.name}, s" for gpu in GPUS), "measured on a GPU"], rows)


def main() -> None:
    """Fills the page."""
    found = read_json(GPU_RESULTS) if GPU_RESULTS.exists() else None
    fill_page(PAGE, "ratios", ratios_table(read_json(HERE / "results.json")))
    fill_page(PAGE, "bytes", bytes_table())
    fill_page(PAGE, "decode", decode_table(found))
    fill_page(PAGE, "work", work_table())


if __name__ == "__main__":
    main()
