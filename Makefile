# make demo   train every application on its embedded data, export, predict, compare with docs/results.md: six minutes
# make test   lint, types, doctests and the fast tests: about twelve minutes
# make test-all   every test, the layers on JAX, Keras' own tests, the page in Chromium, every notebook: what must pass to land
# make test-documents   the site, and the commands of the READMEs one after the other: before a change of them lands
# make test-keras   Keras' own tests against our layers; our layers on the next version of Keras, where there is one
# make test-notebooks   run every notebook from top to bottom, with the smaller sizes that nbmake in a cell names
# make constraints   pin the newest versions that requirements.txt and pyproject.toml allow, with hashes; then make test-all
# make docs   READMEs, docstrings and notebooks as a site, build/site/index.html; a broken link is an error: a minute
# make audit   known advisories of what is installed
# make test-browser   the page of apps.demo in Chromium, over models trained for it

PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: audit constraints demo docs test test-all test-keras test-browser test-documents test-notebooks lint types clean

demo: .venv/installed
	$(BIN)/python -m apps.sentiment_classification.train --quick
	$(BIN)/python -m apps.sentiment_classification.predict saved_models/sentiment_classification \
		"I love it" "The story is dull, but the acting is superb." "the food was bad , not good at all ."
	$(BIN)/python -m apps.translation.train --quick
	$(BIN)/python -m apps.translation.predict saved_models/translation \
		"The meeting begins on Friday, July 3, 2026 at 3:05 PM." "The town has 12,345 inhabitants."
	$(BIN)/python -m apps.image_captioning.train --quick
	$(BIN)/python -m apps.music_generation.train --quick
	$(BIN)/python -m apps.music_generation.predict saved_models/music_generation --constrained --out runs/tune \
		"M:6/8\nL:1/8\nK:D\n"
	$(BIN)/python -m apps.language_model.train --quick
	$(BIN)/python -m apps.language_model.predict saved_models/language_model --seed 1 "the food was" "i would not"
	$(BIN)/python -m tests.demo
	@echo "All five are in saved_models/. See them in a browser: $(BIN)/python -m apps.demo"

# What takes longest comes first, so that both processes end together.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
COMMANDS := tests/test_commands.py::test_the_commands_run_one_after_the_other
ON_JAX := KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(BIN)/python -m pytest -n 2

test: lint types
	$(PYTEST) -m "not slow" tests/apps tests --ignore tests/browser layers data_pipelines apps

# A thread a process where networks train, as two processes have two cores: a sixth less time. Processes anew after the
# applications: TensorFlow gives back no memory of what it has compiled or loaded.
test-all: lint types test-keras
	TF_NUM_INTRAOP_THREADS=1 $(PYTEST) --nbmake --nbmake-timeout=600 tests/browser notebooks/*.ipynb tests/apps
	$(PYTEST) --deselect $(COMMANDS) --ignore tests/browser --ignore tests/apps tests layers data_pipelines apps
	$(ON_JAX) tests/layers

test-documents: docs
	$(BIN)/python -m pytest -n 2 $(COMMANDS)

test-keras: .venv/installed
	$(BIN)/python -m tests.keras_suite -n 2
	$(BIN)/python -m tests.keras_suite --next

test-notebooks: .venv/installed
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 --durations=0 notebooks/*.ipynb

test-browser: .venv/installed
	$(BIN)/python -m pytest tests/browser

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -c docs -d build/doctrees . build/site
	@echo "build/site/index.html"

# Needs the network: the advisories are asked for.
audit: .venv/installed
	$(BIN)/pip install --quiet 'pip-audit>=2.9,<3'
	$(BIN)/pip-audit --progress-spinner off --skip-editable --strict || \
		{ echo 'make audit: an advisory above, or what could not be asked for: is there a network?'; exit 1; }

UV_COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --quiet --upgrade

# Needs the network, too. On success the new file takes the place of the old one.
constraints: .venv/installed
	$(BIN)/pip install --quiet 'uv>=0.9,<1'
	$(UV_COMPILE) pyproject.toml --extra dev --output-file constraints.txt --custom-compile-command \
		'make constraints (without torch, of the extra "benchmarks": its build depends on the machine)'
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" | \
		$(UV_COMPILE) - --constraint constraints.txt --output-file constraints-docs.txt --custom-compile-command 'make constraints'

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

# Made once, and again when the requirements change. What a hash doesn't name is not installed.
.venv/installed: constraints.txt requirements.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/installed-docs: constraints-docs.txt .venv/installed
	$(BIN)/pip install --quiet --require-hashes -r constraints-docs.txt
	touch $@

.venv/bin/python:
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv build runs docs/layers saved_models/*/
