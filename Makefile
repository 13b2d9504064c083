# make demo   sets everything up and runs the main job on the embedded demo, report included
# make test   sets everything up and runs the linters' fast checks and all tests
# make test-slurm  installs SLURM and runs tests/slurm: root and Debian only; SLURM_TESTS="-m quick" for a part of them
# make test-browser  installs Chromium (Debian) and tests the demo page of `refer --serve` in it
# make test-envs  builds the environment of every stack but vllm from its file and tests it
# make bench  measures the speed claims;  make lint  runs the linters;  make clean-shards  removes kept shards
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
WORDNET := results/assets/wordnet/corpora/wordnet/lexnames
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-slurm test-browser test-envs conda profiles bench lint env clean-shards test-vllm

$(READY): envs/local.txt envs/page.txt
	@echo "creating the environment in $(VENV) (about 2 minutes, 2 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r envs/local.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r envs/page.txt
	@echo "$(CURDIR)/lib" > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/sightline.pth
	@touch $@

$(WORDNET): $(READY)
	@envs/system_packages.sh wordnet-base wordnet-sense-index
	@$(BIN)/python -m sightline wordnet
	@$(BIN)/python -m sightline wordnet --target results/assets/wordnet/corpora/wordnet

env: $(READY) $(WORDNET) profiles conda

conda: $(READY)
	@$(BIN)/python envs/conda_stand_in.py install $(BIN)

profiles: $(READY)
	@$(BIN)/python -m sightline profiles || echo "going on without: only --profile needs them"

demo: env
	@echo "running the main job on the demo: results/fitcoach_metrics.json, results/sgear_metrics.json and the report"
	snakemake
	snakemake --report report.html
	@$(BIN)/python -m sightline show results/fitcoach_metrics.json
	@$(BIN)/python -m sightline show results/sgear_metrics.json
	@$(BIN)/python -m sightline show results/hoiref_metrics.json
	@echo "report: report.html; pages: results/report/comparison.html, samples.html, timing.html"

test: env
	@envs/system_packages.sh ffmpeg
	$(BIN)/python -m pytest

test-slurm:
	@[ "$$(id -u)" -eq 0 ] || { echo "these tests start daemons and make devices: run make test-slurm as root"; exit 1; }
	@$(MAKE) --no-print-directory env
	@envs/system_packages.sh slurm-wlm munge slurmdbd mariadb-server
	$(BIN)/python -m pytest tests/slurm --timeout 1800 $(SLURM_TESTS)

test-browser: env
	@envs/system_packages.sh chromium
	$(BIN)/python -m pytest tests/browser

test-envs: env
	$(BIN)/python -m pytest tests/stacks --every-stack

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint
	$(BIN)/mypy lib/sightline

bench: env
	@envs/system_packages.sh ffmpeg
	$(BIN)/python -m benchmarks

# third-party CPU build of vLLM in an environment of its own under ~/.cache (3.5 GB); production: envs/vllm.yaml
test-vllm: env
	$(BIN)/python -m pytest tests/vllm/vllm_cpu.py --timeout 1800

clean-shards:
	rm -rf results/runs/*/*/*/shards results/features/*/*/shards
