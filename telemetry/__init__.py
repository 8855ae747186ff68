"""Telemetry on the console: ingest, store, rollups, insights."""
