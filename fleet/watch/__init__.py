"""Watching the console itself: liveness, readiness, metrics, and what of it may be cached."""
