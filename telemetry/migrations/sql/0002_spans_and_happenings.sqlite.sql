-- The SQLite twin of 0002_spans_and_happenings.postgresql.sql.

CREATE TABLE telemetry_span (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    trace_id text,
    run_id text NOT NULL,
    parent_span_id text,
    name text,
    kind text,
    start_ns integer NOT NULL,
    end_ns integer,
    status text,
    attrs_json text,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_span_start ON telemetry_span (start_at);
-- statement
CREATE TABLE telemetry_gatewayevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    platform text,
    direction text,
    result text,
    voice bool,
    attachments integer,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_gatewayevent_start ON telemetry_gatewayevent (start_at);
-- statement
CREATE TABLE telemetry_cronevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    kind text,
    result text,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_cronevent_start ON telemetry_cronevent (start_at);
-- statement
CREATE TABLE telemetry_skillevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    action text,
    skill_name text,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_skillevent_start ON telemetry_skillevent (start_at);
-- statement
CREATE TABLE telemetry_memoryevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    action text,
    result text,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_memoryevent_start ON telemetry_memoryevent (start_at);
-- statement
CREATE TABLE telemetry_feedbackevent (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    span_id text NOT NULL,
    run_id text NOT NULL,
    ts_ns integer NOT NULL,
    kind text,
    trace_id text,
    parent_span_id text,
    start_ns integer,
    end_ns integer,
    seq integer NOT NULL,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, span_id)
);
-- statement
CREATE INDEX telemetry_feedbackevent_start ON telemetry_feedbackevent (start_at);
