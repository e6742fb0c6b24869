# Two commands matter: `make demo` and `make test`. Both make the environment they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where no GPU is found the CPU build of torch is asked for; where one is, the index's own.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

ifeq ($(shell command -v nvidia-smi rocm-smi 2>/dev/null),)
TORCH := --constraint .ci/constraints.txt --extra-index-url $(CPU_INDEX) --retries 1 torch
CONSTRAINTS := --constraint .ci/constraints.txt
else
TORCH := torch
CONSTRAINTS :=
endif

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(BIN)/accel compare --model demo --output out

test: $(VENV)/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out
