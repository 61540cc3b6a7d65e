# Each target first sees to a complete environment, which takes seconds once there is one.
# PYTHON: the interpreter to start from (3.10 to 3.12).
PYTHON ?= python3
PY = $(PYTHON) tools/setup_env.py

.PHONY: demo test test-onedl lint

demo:
	@$(PY) -- tools/demo.py $(DEMO_ARGS)

test:
	@$(PY) --dev -- -m pytest $(PYTEST_ARGS)

# The same tests on the onedl forks of the OpenMMLab packages, in an environment of their own.
test-onedl:
	@$(PY) --dev --family onedl -- -m pytest $(PYTEST_ARGS)

lint:
	@$(PY) --dev -- -m ruff check .
