# irstream. `make demo` and `make test` need Python 3.11 or newer, pip, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Debian's packages that tests need (a real RTSP server, a GigE Vision camera on loopback, a browser, Prometheus); without
# them those tests skip and say so. SRT, GigE Vision and USB3 Vision cameras need the two libraries at run time.
DEBIAN := libsrt1.5-gnutls libaravis-0.8-0 aravis-tools python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools \
	gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly chromium prometheus

.PHONY: debian-packages setup setup-dev demo test fuzz soak gpu-check lint docs clean

setup: $(VENV)/.base

setup-dev: $(VENV)/.dev

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is too old; Python 3.11 or newer is needed (make PYTHON=python3.12 ...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing the pipeline into $(VENV), some 850 MB on disk; a minute or two ..."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@echo "compiling detection and tracking for this machine, once; some 20 s ..."
	@$(BIN)/python -m stream.compiled
	@touch $@

# torch is needed by training/ and its tests alone; the demo installs none.
$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

debian-packages:
	@echo $(DEBIAN)

demo: $(VENV)/.base
	$(BIN)/python run_pipeline.py --duration 15

# Half of the tests mostly wait, for processes that are killed or start: two at a time. Cameras that give fresh frames and
# end within a second get the machine for themselves.
CAMERAS := $(patsubst %,tests/stream/sources/test_%.py,gige lasting network srt)
test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(addprefix --ignore ,$(CAMERAS))
	$(BIN)/python -m pytest $(CAMERAS)

# On a machine with an NVIDIA GPU: installs an engine, compares, times, runs end to end, and writes gpu.json.
ENGINE ?= tensorrt
gpu-check: $(VENV)/.base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(ENGINE)]'
	$(BIN)/python -m engine.gpu_check --engine $(patsubst rtx,tensorrt,$(ENGINE)) --json gpu.json

# Hypothesis draws so many configurations, messages and images; the tests draw a few of each.
CASES ?= 10000
fuzz: $(VENV)/.dev
	FUZZ_CASES=$(CASES) $(BIN)/python -m pytest tests/test_fuzz.py --timeout 7200

MINUTES ?= 30
soak: $(VENV)/.base
	$(BIN)/python -m stream.soak --minutes $(MINUTES)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build *.egg-info
