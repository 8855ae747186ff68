-- The SQLite twin of 0001_events.postgresql.sql: the same columns and keys in plain tables.
-- Types are those Django reads back: char(32) a UUID, datetime and bool by their names.

CREATE TABLE telemetry_run (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    run_id text NOT NULL,
    trace_id text,
    session_id text,
    profile_id text,
    entrypoint text,
    platform text,
    start_ns integer NOT NULL,
    end_ns integer,
    end_reason text,
    model_call_count integer,
    tool_call_count integer,
    error_count integer,
    estimated_cost_usd real,
    cost_status text,
    schema_v integer,
    parent_run_id text,
    agent_version text,
    turn_count integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, run_id)
);
-- statement
CREATE INDEX telemetry_run_start ON telemetry_run (start_at);
-- statement
CREATE TABLE telemetry_modelcall (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    provider text,
    model text,
    base_url text,
    input_tokens integer,
    output_tokens integer,
    cache_read_tokens integer,
    cache_write_tokens integer,
    reasoning_tokens integer,
    latency_ms real,
    ttft_ms real,
    estimated_cost_usd real,
    cost_status text,
    cost_source text,
    end_reason text,
    retry_count integer,
    trace_id text,
    parent_span_id text,
    start_ns integer NOT NULL,
    end_ns integer,
    response_model text,
    finish_reason text,
    api_request_id text,
    status_code integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_modelcall_start ON telemetry_modelcall (start_at);
-- statement
CREATE TABLE telemetry_toolcall (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    tool_name text,
    backend text,
    duration_ms real,
    result_class text,
    retry_count integer,
    approval text,
    trace_id text,
    parent_span_id text,
    start_ns integer NOT NULL,
    end_ns integer,
    tool_call_id text,
    error_type text,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_toolcall_start ON telemetry_toolcall (start_at);
-- statement
CREATE TABLE telemetry_errorevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    error_class text,
    subsystem text,
    recovery text,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    retryable bool,
    status_code integer,
    retry_count integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_errorevent_start ON telemetry_errorevent (start_at);
