# Needs make, a Python >= 3.12 somewhere (or uv to fetch one) and a package index. Nothing else:
# deploy/venv.sh makes .venv on first use and leaves it alone while it is up to date.

.POSIX:
.SUFFIXES:
.PHONY: help venv demo up test check format docs bench-redaction

help:
	@echo 'make demo    a console with a small simulated fleet on this machine; Ctrl-C ends it'
	@echo 'make up      the same console without the simulated fleet'
	@echo 'make test    everything: make check, then all tests, then the coverage floors'
	@echo 'make check   linters, types, import boundaries, Django checks, templates'
	@echo 'make format  rewrite code and templates the way make check wants them'
	@echo 'make docs    the documentation as a site in build/site'
	@echo 'make bench-redaction  what the scrubber finds, takes by mistake and costs (CORPUS="FILE ..." for labelled sets)'
	@echo 'make venv    only the virtual environment .venv (PYTHON=/path/to/python3.12 names the interpreter)'

venv:
	@sh deploy/venv.sh

demo: venv
	@exec .venv/bin/python manage.py demo

up: venv
	@exec .venv/bin/python manage.py up

test: venv
	@exec .venv/bin/python -m tests.suite test

check: venv
	@exec .venv/bin/python -m tests.suite check

format: venv
	@exec .venv/bin/python -m tests.suite format

docs: venv
	@exec .venv/bin/python -m sphinx -W --keep-going -q docs build/site

bench-redaction: venv
	@exec .venv/bin/python -m benchmarks.redaction $${CORPUS:+--corpus $$CORPUS}
