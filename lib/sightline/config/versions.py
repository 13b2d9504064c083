"""One number per stage. Raise it when a change in the library may change what the stage writes.

Snakemake does not see edits of the library; it sees these, as parameters of the rules, and recomputes the
stage and what follows. The golden tests fail when a number moves without a bump.
"""

STAGE: dict[str, int] = {
    "acquire": 1,
    "decode": 1,
    "extract_frames": 1,
    "features": 1,
    "samples": 1,
    "train": 1,
    "predict": 1,
    "merge": 1,
    "score": 2,
    "submit": 1,
    "judge": 1,
    "views": 1,
    "summarise": 2,
    "report": 2,
    "demo": 2,
}
