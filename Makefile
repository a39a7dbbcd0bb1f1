# Each target makes the environment in .venv first, where it isn't there yet. `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := data=scenes data.num_images=6 data.batch_size=3 trainer.accelerator=cpu
PARALLEL := --numprocesses=2 --dist=loadfile
# Tests that take most of the time, which make fast leaves out: whole runs, kernels interpreted, every architecture.
LONG := app benchmark callbacks cli comparison grounding integrations measures pipeline pretrain run test_docs.py \
	$(addprefix datamodules/test_,annotations_properties.py coco_edit.py completion.py) \
	$(addprefix editing/test_,editing.py editors.py pretrained_editors.py) \
	$(addprefix io/test_,disk.py frames.py) method/test_inversion.py \
	$(addprefix networks/test_,architectures.py few_steps.py generation.py graphs.py kernels.py memory.py offload.py tuning.py)

.PHONY: help demo test slow fast lint format docs tree clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: $(VENV)/installed ## invert and edit six drawn scenes, and say where to look
	$(BIN)/python train.py $(DEMO) output=outputs/demo/locinv
	$(BIN)/python train.py predict $(DEMO) output=outputs/demo/locinv
	$(BIN)/python train.py $(DEMO) method=nti output=outputs/demo/nti
	@echo
	@$(BIN)/python train.py table outputs/demo/locinv outputs/demo/nti
	@echo
	@echo "Look at   outputs/demo/locinv/contact_sheet.png   all images: maps before and after"
	@echo "          outputs/demo/locinv/sheets/             a page for each image"
	@echo "          outputs/demo/locinv/report.html         its edits, with sliders"
	@echo "          $(BIN)/tensorboard --logdir outputs/demo"

test: $(VENV)/installed ## run the tests, but for those of make slow
	$(BIN)/python -m pytest $(PARALLEL) --no-loadscope-reorder

slow: $(VENV)/installed ## run the tests that take a whole model, whole runs side by side, a browser or processes of their own
	$(BIN)/python -m pytest $(PARALLEL) -m slow

fast: $(VENV)/installed ## run the tests that take less than a minute together
	$(BIN)/python -m pytest $(PARALLEL) $(LONG:%=--ignore=tests/%)

lint: $(VENV)/installed tree ## check style by ruff and types by mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd build/tree && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml -p locinv_pl

format: $(VENV)/installed ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed tree ## build the documentation into build/site; executes the tutorial
	$(BIN)/mkdocs build --strict

# The package as a wheel has it, by links: for tools that read folders and don't import.
tree:
	rm -rf build/tree && mkdir -p build/tree/locinv_pl
	ln -s $(CURDIR)/locinv_pl/* $(CURDIR)/datamodules $(CURDIR)/callbacks $(CURDIR)/configs build/tree/locinv_pl

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	touch $@

clean: ## delete the environment and everything that was made
	rm -rf $(VENV) outputs data build
