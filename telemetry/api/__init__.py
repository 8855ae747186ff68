"""The agents' telemetry API: one push endpoint."""
