# Everything starts here: `make help` lists the targets. Needs python3 >= 3.11, a C++20 compiler and make.
PYTHON ?= python3
VENV   ?= .venv
MODEL  ?= smollm2
PROMPT ?= Why is the sky blue? Answer in two sentences.

PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check
# The build tools live in the environment itself (no build isolation), so that a rebuild is incremental.
BUILD_TOOLS := "scikit-build-core>=0.10" "nanobind>=2.4" "cmake>=3.20" ninja
NATIVE := $(wildcard CMakeLists.txt pellucid/native/CMakeLists.txt) $(shell find pellucid/native -name '*.cpp' -o -name '*.h')

ifneq ($(origin CXX),default)
export CXX
endif

.PHONY: help run test soak soak-server faults clients proof check aarch64 emulated-isas quality bench bench-peers bench-many bench-servers bench-overload bench-scheduling bench-classification bench-sampling structured parity goldens docs clean setup setup-dev
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || sed -n 's/^\([a-z0-9-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

run: setup ## set up on first use, fetch the built-in model, stream an answer (MODEL=…, PROMPT=…)
	@$(VENV)/bin/pellucid run $(MODEL) "$(PROMPT)"

test: setup-dev ## set up on first use, run the tests
	@$(PY) -m pytest

soak: setup-dev ## the tests whose counts can be raised, with large counts
	@$(PY) -m pytest --soak tests/tools tests/chat tests/engine/test_async_engine.py

proof: setup-dev ## the proofs of scheduler, cache, invariance and server with large counts; writes a result file (PARTS=…)
	@$(PY) benchmarks/proof.py $(PARTS)

faults: setup-dev ## every kind of fault of a server, five times each; figures into the docs (WITHIN=10 on a busy machine)
	@$(PY) benchmarks/faults.py $(if $(WITHIN),--within "$(WITHIN)")

clients: setup-dev ## install the other clients of docs/clients.md and try every recipe
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PIP) --no-build-isolation --editable '.[clients]'
	@$(PY) -m pytest tests/server/test_http_other_clients.py

soak-server: setup-dev ## 60,000 mixed requests to a server and what they leave behind; writes a result file (PARTS=…)
	@$(PY) benchmarks/soak.py $(PARTS)

check: setup-dev ## lint, format, types, C++ format, import direction
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@find pellucid/native -name '*.cpp' -o -name '*.h' | xargs -r $(VENV)/bin/clang-format --dry-run -Werror
	@$(PY) -m pytest tests/test_imports.py

aarch64: setup-dev ## cross-compile for aarch64 and run the op table there, under emulation (Debian; qemu-user)
	@PY="$(abspath $(PY))" scripts/aarch64.sh

emulated-isas: setup-dev ## run the kernels of AVX-512, VNNI and AMX on emulated CPUs (Debian; builds Bochs; 20 minutes)
	@PY="$(abspath $(PY))" scripts/emulated_isas.sh

bench: setup ## measure speed, cold start and memory of all benchmark models (OPTIONS="--models smollm2 --parts rounds" …)
	@$(PY) benchmarks/run.py $(OPTIONS)

bench-peers: setup ## the same beside llama.cpp, and docs/performance.md anew (LLAMA_BIN=folder of its programs, OPTIONS=…)
	@$(PY) benchmarks/run.py --llama-bin "$(LLAMA_BIN)" $(if $(LLAMA_VERSION),--llama-version "$(LLAMA_VERSION)") $(OPTIONS)
	@$(PY) benchmarks/make_performance_doc.py

bench-many: setup ## 256 requests that share a system prompt, beside llama.cpp (LLAMA_BIN=…) and vLLM (VLLM_PYTHON=…)
	@$(PY) benchmarks/compare_many.py $(if $(ACTIVATIONS),--activations $(ACTIVATIONS)) $(if $(LLAMA_BIN),--llama-bin "$(LLAMA_BIN)") $(if $(LLAMA_VERSION),--llama-version "$(LLAMA_VERSION)") $(if $(VLLM_PYTHON),--vllm-python "$(VLLM_PYTHON)")

bench-servers: setup ## our server beside llama-server (LLAMA_SERVER=program), 1 to 64 streams (MODELS=…, OPTIONS=--rounds=1 …)
	@$(PY) benchmarks/compare_servers.py $(if $(MODELS),--models "$(MODELS)") $(if $(LLAMA_SERVER),--llama-server "$(LLAMA_SERVER)") $(if $(LLAMA_VERSION),--llama-version "$(LLAMA_VERSION)") $(OPTIONS)

bench-overload: setup ## slow-loris connections and too many clients; figures into the docs (MODELS=story,smollm2)
	@$(PY) benchmarks/overload.py $(if $(MODELS),--models "$(MODELS)") $(OPTIONS)

bench-scheduling: setup ## what book-keeping costs a step, and what a shared prefix saves
	@$(PY) benchmarks/scheduling.py

bench-classification: setup ## accuracy of LLM.classify, and its figures in the docs anew
	@$(PY) benchmarks/classification.py

bench-sampling: setup ## CPU time of choosing a token, by sampler and size of vocabulary
	@$(PY) benchmarks/sampling.py

structured: setup-dev ## answers to a corpus of schemas with a real model, and what masks cost; figures into the docs
	@$(PY) benchmarks/structured_output.py smollm2 $(OTHER_MODELS)

quality: setup ## accuracy and speed of each type of KV cache, and docs/quality.md anew
	@$(PY) benchmarks/kv_quality.py

parity: $(VENV)-parity/.ready ## the long comparison with transformers (its own environment: torch is large)
	@$(VENV)-parity/bin/python -m pytest tests/parity

goldens: $(VENV)-parity/.ready ## remake the committed goldens with transformers
	@for script in scripts/make_*goldens.py; do echo "$$script" && $(VENV)-parity/bin/python "$$script" || exit 1; done

docs: setup-dev ## regenerate the pages that are made from the code
	@for script in scripts/make_*docs.py; do echo "$$script" && $(PY) "$$script" || exit 1; done

clean: ## remove the environments, builds and caches inside this folder (downloaded models stay)
	rm -rf $(VENV) $(VENV)-parity build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pellucid tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.built ## install Pellucid into .venv
setup-dev: $(VENV)/.dev ## the same, with the tools for tests and checks

$(VENV)/.created: scripts/preflight.sh
	@scripts/preflight.sh "$(PYTHON)"
	@echo "Creating $(VENV) with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(BUILD_TOOLS)
	@touch $@

$(VENV)/.built: $(VENV)/.created pyproject.toml $(NATIVE)
	@echo "Installing Pellucid and building its native core (the first time takes a few minutes) …"
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.built
	@echo "Installing the tools for tests and checks …"
	@PATH="$(abspath $(VENV))/bin:$$PATH" $(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/.built

$(VENV)-parity/.ready: pyproject.toml scripts/preflight.sh $(NATIVE)
	@scripts/preflight.sh "$(PYTHON)"
	@echo "Creating $(VENV)-parity (torch and transformers: several hundred MB) …"
	@$(PYTHON) -m venv $(VENV)-parity
	@$(VENV)-parity/bin/python -m pip install --quiet $(BUILD_TOOLS)
	@PATH="$(abspath $(VENV))-parity/bin:$$PATH" $(VENV)-parity/bin/python -m pip install --quiet --no-build-isolation --editable '.[dev,parity]'
	@touch $@
