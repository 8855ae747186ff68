"""Exports: the operator's data, written to files by jobs that survive what happens to them."""
