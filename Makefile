# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check test-faults test-fuzz test-browser test-training test-gpu clean

demo: $(STAMP)
	$(BIN)/luigi --module pipeline RunDataset --local-scheduler --output runs/demo
	@echo
	@echo "Look at runs/demo/report.html, runs/demo/overlays/*.mp4 and runs/demo/masks/"

test: check
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Goes on where it was stopped; what was tried is then in runs/faults.log.done.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults --resume runs/faults.log

test-fuzz test-browser test-training test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m $(@:test-%=%)

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
