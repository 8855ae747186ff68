-- The trajectories plane: content in tables of its own, so that no query, page or export of
-- another plane can meet it. The rules are those of 0001: install and time in the key, no
-- foreign keys, a partition a UTC day, no DEFAULT partition.

CREATE TABLE telemetry_contentsession (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    source text,
    model text,
    title text,
    ended_at timestamptz,
    message_count bigint,
    tool_call_count bigint,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, session_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE TABLE telemetry_contentmessage (
    install_id uuid NOT NULL,
    start_at timestamptz NOT NULL,
    session_id text NOT NULL,
    message_id bigint NOT NULL,
    role text,
    name text,
    tool_name text,
    tool_call_id text,
    finish_reason text,
    token_count bigint,
    content_json text,
    reasoning_json text,
    tool_calls_json text,
    batch_id uuid NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (install_id, start_at, session_id, message_id)
) PARTITION BY RANGE (start_at);
-- statement
CREATE INDEX telemetry_contentsession_start_brin ON telemetry_contentsession USING brin (start_at) WITH (pages_per_range = 32);
-- statement
CREATE INDEX telemetry_contentmessage_start_brin ON telemetry_contentmessage USING brin (start_at) WITH (pages_per_range = 32);
