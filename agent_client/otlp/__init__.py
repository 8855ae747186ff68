"""The local plane for an OpenTelemetry collector: recorded rows as spans, logs and metrics.

``drain.drain`` sends what a durable cursor has not passed; ``streamer.start_streamer`` does so all
the time in a long-lived host; ``target.otlp_state`` says how it stands. Nothing is measured
again: ids, times and parents are those that were recorded.
"""
