# Variables: PG_CONFIG (which Postgres), DEV (the private tree), DESTDIR (for install), FIRST_MODEL (the model that setup gets, instead of
# gte-small or all-minilm-l6-v2). The work is in tools/*.sh.

.PHONY: help setup build install uninstall deb demo psql stop search test test-search test-majors test-packages test-clients lint bench model release clean
.NOTPARALLEL:

help: ## Show this list
	@echo "PG_CONFIG=/path/to/pg_config behind a target chooses the Postgres (15 to 18; the newest that is installed without it)."
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: ## Install what is missing: Debian packages, ONNX Runtime, a model
	@tools/setup.sh

build: setup ## Build the extension into a private copy of Postgres's directories
	@tools/build.sh

install: build ## Install the extension, ONNX Runtime and the models into PG_CONFIG's directories
	@tools/install.sh install

uninstall: ## Remove what install and model put there
	@tools/install.sh uninstall

deb: build ## Make Debian packages of the extension and the models in dist/; MODEL=/path/to/folder: of that model alone
	@tools/deb.sh $(MODEL)

demo: build ## Embed a few hundred texts in a private cluster and ask them a question
	@tools/demo.sh demo

psql: ## Open the demo's database
	@tools/demo.sh psql

stop: ## Stop the demo's server
	@tools/demo.sh stop

search: build ## Open a page that searches the PostgreSQL manual, at a loopback address; PORT=8000 is its port
	@tools/search.sh

test: build ## Run all tests
	@tools/test.sh

test-search: build ## Run the tests of the search page, in a real browser too
	@tools/test_search.sh

test-majors: ## Run all tests with other PostgreSQL versions, MAJORS="16 17 18", or on other systems, MAJORS="debian13 ubuntu24.04"
	@tools/majors.sh $(or $(MAJORS),16 17 18)

test-packages: build ## Install the Debian packages in a bare system without a compiler; SYSTEMS="debian12 debian13 ubuntu24.04" (as root)
	@tools/test_packages.sh $(SYSTEMS)

test-clients: build ## Try clients and frameworks of Python and Node.js against the extensions
	@tests/clients.sh

lint: setup ## Check formatting, clippy, types for PostgreSQL 15 to 18, and the scripts
	@tools/lint.sh

bench: demo ## Measure embed, exact search, and the index against its peers
	@benches/run.sh
	@benches/ivf.sh

model: setup ## Get a model: MODEL=name, for other than the known ones also REPO=owner/name; QUANTIZE=q8: its twin, name-q8
	@tools/model.sh

release: build ## Cut the present version, as a commit and a tag, and begin NEXT=1.2.3
	@tools/release.sh $(NEXT)

clean: ## Stop the demo and remove all that was built or downloaded here
	@tools/clean.sh
