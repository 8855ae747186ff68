"""Helpers without a domain: clock, SQL, tokens."""
