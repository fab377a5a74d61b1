# make demo | test | check | bench. Everything is installed into .venv; nothing outside this folder is touched.
PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_ARGS ?=
SUBJECT ?= barrel
NOUN ?= barrel
OUT ?= out/demo
# The small model paints pictures over at the usual 7.5 once neurons are shut.
GUIDANCE ?= 3.5
# Those of the tables: 120 gradients, 32 prior pictures, 1.32 % of the weights as in the paper.
SETTINGS ?= density=0.0132 steps=40 refine_steps=80 prior_count=32 prior_steps=20 held_out=128

.PHONY: demo test check bench clean

demo: .venv/installed
	.venv/bin/cones demo examples/photos/$(SUBJECT) --noun "$(NOUN)" --output $(OUT) --guidance $(GUIDANCE) $(SETTINGS:%=--set %) --overwrite

test: .venv/installed
	.venv/bin/python -m pytest -q

check: .venv/installed
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/check

bench: .venv/installed
	.venv/bin/cones bench codec --output docs/results/codec.json --overwrite
	.venv/bin/cones bench swap --output docs/results/swap.json --overwrite
	.venv/bin/cones bench scale --output docs/results/scale.json --overwrite
	.venv/bin/cones bench search --docs docs
	.venv/bin/cones bench strangers --docs docs
	.venv/bin/cones bench rules --docs docs
	.venv/bin/cones bench precision --docs docs
	.venv/bin/cones bench overlap --docs docs
	.venv/bin/cones bench conflicts --docs docs
	.venv/bin/cones bench erase --docs docs
	.venv/bin/cones bench algebra --docs docs
	.venv/bin/cones bench style --docs docs

clean:
	rm -rf .venv out

# The CPU build of torch where there is no NVIDIA driver: a tenth of the download. Where pip does not
# find it by itself, pass PyTorch's index of CPU wheels: make demo TORCH_ARGS="--extra-index-url URL".
.venv/installed: pyproject.toml
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'needs Python 3.11 or newer'"
	@$(PYTHON) -c "import ensurepip" || { echo "apt-get install python3-venv, then run make again"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	if command -v nvidia-smi >/dev/null; then \
	  .venv/bin/python -m pip install -q "torch==$(TORCH)" $(TORCH_ARGS); \
	else \
	  .venv/bin/python -m pip install -q "torch==$(TORCH)+cpu" $(TORCH_ARGS) \
	    || .venv/bin/python -m pip install -q "torch==$(TORCH)" $(TORCH_ARGS); \
	fi
	.venv/bin/python -m pip install -q -e '.[dev]'
	touch $@
