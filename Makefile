# Every target builds .venv from nothing if need be, and reuses it until pyproject.toml changes.

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install -qq --disable-pip-version-check
STAMP  := $(VENV)/.installed

# The toolchain the tests are run with. torch goes first and alone, so that pip is free to take a
# build without CUDA where one is at hand; a torch that brings its own triton keeps it.
TORCH     := torch==2.13.0
TOOLCHAIN := llvmlite==0.50.0 "triton==3.6.0; sys_platform == 'linux' and platform_machine == 'x86_64'"

.DEFAULT_GOAL := help
.PHONY: help demo test check lint laws bench structure clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## run the kernel examples, then quantise and run a small model
	@$(PY) -m examples

test: $(STAMP) ## run every test that needs no GPU
	@$(PY) -m pytest -m "not gpu" -n auto

check: lint test ## everything a change must pass: format, lint, types, tests

lint: $(STAMP) ## check format, lint and types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

laws: $(STAMP) ## try each algebraic law on 10,000 random examples
	@HYPOTHESIS_PROFILE=laws $(PY) -m pytest -m laws -n auto

bench: $(STAMP) ## time quantised products beside the machine's limits
	@$(PY) -m tilus bench matmul --weights u1,u4,u8,f6e3m2,nf4 --m 1,8,512

structure: $(STAMP) ## rewrite docs/structure.md and docs/instructions.md from the code
	@$(PY) docs/structure.py
	@$(PY) docs/instructions.py

clean: ## remove .venv and everything else that was built
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv that works and was made in this folder is kept and brought up to date.
$(STAMP): pyproject.toml
	@$(PY) -c "import os, sys, pip; sys.exit(sys.version_info < (3, 11) or not os.path.samefile(sys.prefix, '$(VENV)'))" 2>/dev/null || { \
		for python in $(PYTHON); do \
			$$python -c "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || continue; \
			echo "Building $(VENV) with $$python; the first time, this takes some minutes."; \
			rm -rf $(VENV) && exec $$python -m venv $(VENV); \
		done; \
		echo "tilus needs Python 3.11 or newer, with its venv module. None of these is: $(PYTHON)." >&2; \
		echo "Name one: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(PIP) $(TORCH) || $(PIP) "torch>=2.11"
	@$(PY) -m pip show -qq triton || $(PIP) $(TOOLCHAIN)
	@$(PIP) --editable ".[dev]"
	@touch $@
