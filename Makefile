# Two commands matter: `make demo` and `make test`. Both make the environment they need in .venv, from the lock files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
TORCH := $(shell grep '^torch==' .ci/lock.txt)

# Without a GPU, torch's CPU build: the package index's own build for Linux brings gigabytes of CUDA.
ifeq ($(shell command -v nvidia-smi rocm-smi 2>/dev/null),)
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
CPU_TORCH := $(PIP) --no-deps --retries 0 --index-url $(CPU_INDEX) $(TORCH) ||
endif

.PHONY: demo test test-newest docs lint lock clean

demo: $(VENV)/installed
	$(BIN)/accel compare --model demo --output out

test: $(VENV)/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The seams to other libraries, with the newest release of each, whatever pyproject.toml allows.
test-newest:
	$(PYTHON) .ci/newest.py $(VENV)-newest '$(TORCH)' '$(CPU_INDEX)'

# The site in site/, strict: a link or a reference that leads nowhere is an error (with --quiet, MkDocs misses them).
# Its tools, as the lock pins them, are in an environment of their own: they need no PyTorch.
DOCS = import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
docs: $(VENV)-docs/installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --strict

$(VENV)-docs/installed: pyproject.toml .ci/lock-dev.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(PYTHON) -c '$(DOCS)' > $(VENV)-docs/wanted
	$(VENV)-docs/bin/pip install --quiet --requirement $(VENV)-docs/wanted --constraint .ci/lock-dev.txt
	touch $@

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml .ci/lock.txt
	$(PYTHON) -m venv $(VENV)
	$(CPU_TORCH) $(PIP) $(TORCH)
	$(PIP) --no-deps --requirement .ci/lock.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed .ci/lock-dev.txt
	$(PIP) --no-deps --no-compile --requirement .ci/lock-dev.txt
	touch $@

# Adds to the lock files what pyproject.toml asks for and they lack; `make lock UPGRADE=--upgrade` takes the newest
# releases within pyproject's ranges. The demo's releases are the tests'. torch pins the CUDA packages it needs by itself.
COMPILE = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--no-annotate --custom-compile-command 'make lock' $(UPGRADE)

lock:
	test -x $(VENV)-lock/bin/uv || ($(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv)
	echo 'setuptools>=77' | $(COMPILE) pyproject.toml - --extra dev --extra docs --extra ui --output-file .ci/lock-dev.txt
	echo 'setuptools>=77' | $(COMPILE) pyproject.toml - --constraint .ci/lock-dev.txt --output-file .ci/lock.txt
	sed -i.old -E '/^(nvidia|cuda)-/d' .ci/lock.txt .ci/lock-dev.txt
	rm -f .ci/lock.txt.old .ci/lock-dev.txt.old

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lock $(VENV)-docs out site build
