"""Policy: pins are compiled, planned, published, signed, served, and acknowledged.

compile (pure) → plan (what would change) → publish (one transaction) → serve
(bundle and assignment) → ack (check-in, state, drift).
"""
