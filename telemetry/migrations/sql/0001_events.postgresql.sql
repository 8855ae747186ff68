-- The four event tables of the contract, partitioned by UTC day on start_at.
--
-- There is no DEFAULT partition: a row outside every day would hide there and make each later
-- ATTACH scan it. telemetry_partitions makes the days ahead, ingest makes an accepted day that is
-- still missing. No foreign keys and no uniqueness across installs: both would forbid sharding.
-- BRIN serves windows: the rows of a day arrive roughly in time order.

CREATE TABLE telemetry_run (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    run_id text NOT NULL,
    trace_id text,
    session_id text,
    profile_id text,
    entrypoint text,
    platform text,
    start_ns bigint NOT NULL,
    end_ns bigint,
    end_reason text,
    model_call_count bigint,
    tool_call_count bigint,
    error_count bigint,
    estimated_cost_usd double precision,
    cost_status text,
    schema_v bigint,
    parent_run_id text,
    agent_version text,
    turn_count bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, run_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_run_start_brin ON telemetry_run USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_modelcall (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    provider text,
    model text,
    base_url text,
    input_tokens bigint,
    output_tokens bigint,
    cache_read_tokens bigint,
    cache_write_tokens bigint,
    reasoning_tokens bigint,
    latency_ms double precision,
    ttft_ms double precision,
    estimated_cost_usd double precision,
    cost_status text,
    cost_source text,
    end_reason text,
    retry_count bigint,
    trace_id text,
    parent_span_id text,
    start_ns bigint NOT NULL,
    end_ns bigint,
    response_model text,
    finish_reason text,
    api_request_id text,
    status_code bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_modelcall_start_brin ON telemetry_modelcall USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_toolcall (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    tool_name text,
    backend text,
    duration_ms double precision,
    result_class text,
    retry_count bigint,
    approval text,
    trace_id text,
    parent_span_id text,
    start_ns bigint NOT NULL,
    end_ns bigint,
    tool_call_id text,
    error_type text,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_toolcall_start_brin ON telemetry_toolcall USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_errorevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    error_class text,
    subsystem text,
    recovery text,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    retryable boolean,
    status_code bigint,
    retry_count bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_errorevent_start_brin ON telemetry_errorevent USING brin (start_at) WITH (pages_per_range = 32);
