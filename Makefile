# make demo: set up, invert six scenes with LocInv, edit them, invert them with null-text inversion, show where to look.
# make test: set up, run the test suite.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := data=scenes data.num_images=6 data.batch_size=3 trainer.accelerator=cpu trainer.devices=2

.PHONY: demo test lint clean

demo: $(VENV)/installed
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

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/tree && mkdir -p build/tree/locinv_pl
	ln -s $(CURDIR)/locinv_pl/* $(CURDIR)/datamodules $(CURDIR)/callbacks $(CURDIR)/configs build/tree/locinv_pl
	cd build/tree && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p locinv_pl

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) outputs data
