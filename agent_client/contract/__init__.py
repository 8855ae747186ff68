"""The contract between agent and console: one leaf that both sides import.

Pure: no I/O, no clock, no randomness, standard library only. Two exceptions are
imported inside functions: google-re2 and phonenumbers (``redact``) and
cryptography (``dsse``).
"""

from __future__ import annotations

CONTRACT_VERSION = 1
"""Raised when a field is removed or changes meaning; the console serves this and the one before."""
