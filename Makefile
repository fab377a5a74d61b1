# make demo | test | check | bench. All is installed into .venv; nothing outside this folder changes.
PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_ARGS ?=
SUBJECT ?=
OUT ?= out/demo
RUN := .venv/bin/python -m

.PHONY: demo test check bench clean

demo: .venv/installed
	.venv/bin/cones demo $(SUBJECT) --output "$(OUT)" --overwrite

test: .venv/installed
	$(RUN) pytest -q

check: .venv/installed
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/check

# The figures that the docs quote, with the settings that they quote: docs/results/*.json.
bench: .venv/installed
	$(RUN) experiments all

clean:
	rm -rf .venv out

# The CPU build of torch where there is no NVIDIA driver: a tenth of the download. Where pip does
# not find it, pass PyTorch's index of CPU wheels: make demo TORCH_ARGS="--extra-index-url URL".
.venv/installed: pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit('needs Python 3.11 or newer' if sys.version_info < (3, 11) else 0)"
	@$(PYTHON) -c "import ensurepip" || { echo "run 'apt-get install python3-venv', then make again"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then \
	  $(RUN) pip install -q "torch==$(TORCH)" $(TORCH_ARGS); \
	else \
	  $(RUN) pip install -q "torch==$(TORCH)+cpu" $(TORCH_ARGS) \
	    || $(RUN) pip install -q "torch==$(TORCH)" $(TORCH_ARGS); \
	fi
	$(RUN) pip install -q -e '.[dev]'
	touch $@
