"""Holds GPUs in a process of its own, says which on standard output, and lets go when a line comes in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from sightline.run.gpus import gpu_lease

if __name__ == "__main__":
    count, folder, gpus = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
    with gpu_lease(count, os.environ, gpus=gpus, folder=folder) as held:
        print(json.dumps({"held": held, "seen": os.environ["CUDA_VISIBLE_DEVICES"]}), flush=True)
        sys.stdin.readline()
    print(json.dumps({"seen": os.environ.get("CUDA_VISIBLE_DEVICES")}), flush=True)
