# What a developer needs; `make` lists it. Everything installs into .venv, again only when the pins have changed.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PINS := pyproject.toml deploy/constraints.txt
NODE_CLIENTS := tests/clients/node
NODE_EXAMPLE := examples/ssr-node
# Without Node the tests of its SDK and of the example are skipped, and say so.
NODE_MODULES := $(if $(shell command -v npm),$(addsuffix /node_modules/.installed,$(NODE_CLIENTS) $(NODE_EXAMPLE)))
# Servers that tests start and no wheel has, taken from Debian's packages without root; elsewhere they must be installed.
# One package at a time: releases differ in the names of libraries, and an unknown name would cost all the others.
SERVERS := $(if $(shell command -v apt-get),$(VENV)/servers/.extracted)
SERVER_PACKAGES := pgbouncer redis-server redis-tools libevent-2.1-7 libevent-2.1-7t64 libc-ares2 libjemalloc2 liblua5.1-0 liblzf1 lua-cjson lua-bitop haproxy nginx liblua5.3-0 liblua5.4-0 libopentracing1 libopentracing-c-wrapper0 libopentracing-c-wrapper0t64 prometheus
# Chromium for the tests of browser clients, got the same way where no browser is on the PATH; and its pages' scripts.
BROWSER_CLIENTS := tests/clients/browser
BROWSER_PAGES := $(if $(shell command -v npm),$(BROWSER_CLIENTS)/dist/.built)
BROWSERS := chromium chromium-headless-shell google-chrome
BROWSER := $(if $(shell for name in $(BROWSERS); do command -v $$name; done),,$(if $(shell command -v apt-get),$(VENV)/browser/.extracted))
# Tests that want the machine for themselves; two of the others run at a time.
IN_TURN := tests/abuse tests/drills tests/processes tests/rehearsal
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test check lint bench drills soak mutations constraints clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
	    printf '  make %-12s %s\n' "$$name" "$$what"; done

run: $(VENV)/.runs ## Serve the demo flags on http://127.0.0.1:8000
	@exec $(BIN)/flagstone serve --demo

test: $(VENV)/.develops $(NODE_MODULES) $(SERVERS) $(BROWSER_PAGES) $(BROWSER) ## Run the tests, with full branch coverage of evaluator and config
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --numprocesses=2 --cov --cov-report= $(IN_TURN:%=--ignore=%)
	$(BIN)/python -m pytest --cov --cov-append --cov-report= $(IN_TURN)
	$(BIN)/coverage report --include='evaluator/*,config/*' --fail-under=100

lint: $(VENV)/.develops ## Check formatting, style, types and import directions
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## Do everything that CI does

bench: $(VENV)/.develops $(SERVERS) ## Run the benchmarks
	$(BIN)/python -m bench.evaluation
	$(BIN)/python -m bench.startup
	$(BIN)/python -m bench.gateway
	$(BIN)/python -m bench.documents
	$(BIN)/python -m bench.kit
	$(BIN)/python -m bench.sizing

drills: $(VENV)/.develops $(SERVERS) ## Rehearse all outages; reports go to drill-reports
	$(BIN)/flagstone drill run all

soak: $(VENV)/.develops $(SERVERS) ## Ten minutes of load with random faults of the backends
	$(BIN)/python -m bench.soak

mutations: $(VENV)/.develops ## Break the evaluator one rule at a time; some test must fail for each
	$(BIN)/python -m bench.mutations

constraints: ## Resolve the newest allowed versions into deploy/constraints.txt
	rm -rf $(VENV) && : > deploy/constraints.txt && $(MAKE) $(VENV)/.develops
	$(BIN)/python -m pip freeze --exclude-editable > deploy/constraints.txt && touch $(VENV)/.runs $(VENV)/.develops

clean: ## Remove .venv and everything the tools have left behind
	rm -rf $(VENV) $(NODE_CLIENTS)/node_modules $(NODE_EXAMPLE)/node_modules $(BROWSER_CLIENTS)/node_modules $(BROWSER_CLIENTS)/dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.runs: $(PINS) | $(BIN)/python
	@echo "Installing flagstone into $(VENV)"
	@$(INSTALL) --editable '.[fast]' && touch $@

$(VENV)/.develops: $(PINS) | $(BIN)/python
	@echo "Installing flagstone and its development tools into $(VENV)"
	@$(INSTALL) --editable '.[dev]' && touch $@ $(VENV)/.runs

$(NODE_CLIENTS)/node_modules/.installed $(NODE_EXAMPLE)/node_modules/.installed: %/node_modules/.installed: %/package-lock.json
	@echo "Installing what $* takes from npm"
	@cd $* && npm ci --silent --no-audit --no-fund && touch node_modules/.installed

$(VENV)/servers/.extracted: Makefile | $(BIN)/python
	@echo "Fetching servers for the tests into $(VENV)/servers"
	@rm -rf $(@D) && mkdir -p $(@D)/packages && cd $(@D)/packages && \
	  { apt-get download -qq pgbouncer || apt-get update -qq; \
	    for name in $(SERVER_PACKAGES); do apt-get download -qq "$$name" || true; done; } >/dev/null 2>&1 && \
	  for package in *.deb; do [ ! -e "$$package" ] || dpkg-deb -x "$$package" ..; done
	@rm -rf $(@D)/packages && { [ ! -x $(@D)/usr/sbin/pgbouncer ] || touch $@; }

$(BROWSER_CLIENTS)/dist/.built: $(addprefix $(BROWSER_CLIENTS)/,package-lock.json package.json clients.js)
	@echo "Installing the browser SDKs for their tests"
	@cd $(BROWSER_CLIENTS) && npm ci --silent --no-audit --no-fund && npm run --silent build && touch dist/.built

# Whatever is missing on this machine to start the browser comes along, and fonts, so that pictures look alike everywhere.
$(VENV)/browser/.extracted: tests/clients/browser/chromium.sh | $(BIN)/python
	@echo "Fetching a browser for the tests into $(VENV)/browser"
	@rm -rf $(@D) && mkdir -p $(@D)/packages && cd $(@D)/packages && \
	  missing() { apt-get install --simulate --no-install-recommends chromium-headless-shell | awk '/^Inst/ {print $$2}'; }; \
	  fetch() { [ -n "$$(missing)" ] && apt-get download -qq fonts-dejavu-core $$(missing); }; \
	  { fetch || { apt-get update -qq; fetch; }; } >/dev/null 2>&1; \
	  for package in *.deb; do [ ! -e "$$package" ] || dpkg-deb -x "$$package" ..; done
	@rm -rf $(@D)/packages && cp tests/clients/browser/chromium.sh $(@D)/chromium && \
	  if $(@D)/chromium --version >/dev/null 2>&1; then touch $@; else echo "No browser could be had; its tests will be skipped"; fi

$(BIN)/python:
	@for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python); do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	    then "$$python" -m venv --clear $(VENV); exit; fi; \
	done; \
	echo "flagstone needs Python 3.11, 3.12 or 3.13 with its venv module (Debian: apt install python3-venv)." >&2; \
	echo "Looked for: $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python). Name another: make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
