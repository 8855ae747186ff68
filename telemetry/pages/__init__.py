"""The console pages of telemetry: panels of the overview, runs, batches."""
