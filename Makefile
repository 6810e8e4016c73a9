# Every target is a command of bootstrap.py, which does its own set-up. Without make: `python bootstrap.py demo`.
# Further words go in ARGS: make test ARGS="-k chat"
PYTHON ?= python3
ARGS ?=

.PHONY: demo test check bench parity clean setup pin help
.DEFAULT_GOAL := help

demo test check bench parity clean setup pin help:
	@$(PYTHON) bootstrap.py $@ $(ARGS)
