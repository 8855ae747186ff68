-- Spans and five kinds of happenings, partitioned by UTC day like the tables of 0001.
--
-- They begin without a day: telemetry_partitions makes those ahead, ingest makes one that it needs.

CREATE TABLE telemetry_span (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    trace_id text,
    run_id text NOT NULL,
    parent_span_id text,
    name text,
    kind text,
    start_ns bigint NOT NULL,
    end_ns bigint,
    status text,
    attrs_json text,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_span_start_brin ON telemetry_span USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_gatewayevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    platform text,
    direction text,
    result text,
    voice boolean,
    attachments bigint,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_gatewayevent_start_brin ON telemetry_gatewayevent USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_cronevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    kind text,
    result text,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_cronevent_start_brin ON telemetry_cronevent USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_skillevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    action text,
    skill_name text,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_skillevent_start_brin ON telemetry_skillevent USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_memoryevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    action text,
    result text,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_memoryevent_start_brin ON telemetry_memoryevent USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE TABLE telemetry_feedbackevent (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns bigint NOT NULL,
    kind text,
    trace_id text,
    parent_span_id text,
    start_ns bigint,
    end_ns bigint,
    seq bigint NOT NULL,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_feedbackevent_start_brin ON telemetry_feedbackevent USING brin (start_at) WITH (pages_per_range = 32);
