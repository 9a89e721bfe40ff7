# Two commands do everything on a fresh machine: `make demo` and `make test`.
# CPU=1 installs the build of torch without CUDA: a third of the size.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_CPU := https://download.pytorch.org/whl/cpu

.PHONY: demo test check test-faults test-fuzz test-browser test-training test-gpu test-readme clean

demo: $(STAMP)
	$(BIN)/dyenet run --output runs/demo
	@echo "Look at runs/demo/report.html, runs/demo/overlays/*.mp4 and runs/demo/masks/"
	@echo "Next:  . $(BIN)/activate  and  dyenet segment clip.mp4 first-mask.png -o out/"

test: check
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Goes on where it was stopped; what was tried is then in runs/faults.log.done.
test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults --resume runs/faults.log

test-fuzz test-browser test-training test-gpu test-readme: $(STAMP)
	$(BIN)/python -m pytest -m $(@:test-%=%)

$(STAMP): setup.py
ifdef CPU
	@echo "Installing into $(VENV), about 2 GB: torch without CUDA, and the rest"
else
	@echo "Installing into $(VENV), about 6.5 GB, of which 5 GB are for CUDA; a minute or more."
	@echo "Without an NVIDIA GPU stop this and type: make demo CPU=1"
endif
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifdef CPU
	$(BIN)/python -m pip install torch torchvision --index-url $(TORCH_CPU)
endif
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
