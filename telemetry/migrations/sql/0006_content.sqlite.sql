-- The trajectories plane: content in tables of its own, so that no query, page or export of
-- another plane can meet it. The rules are those of 0001: install and time in the key, no
-- foreign keys.

CREATE TABLE telemetry_contentsession (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    session_id text NOT NULL,
    seq integer NOT NULL,
    source text,
    model text,
    title text,
    ended_at datetime,
    message_count integer,
    tool_call_count integer,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, session_id)
);
-- statement
CREATE TABLE telemetry_contentmessage (
    install_id char(32) NOT NULL,
    start_at datetime NOT NULL,
    session_id text NOT NULL,
    message_id integer NOT NULL,
    role text,
    name text,
    tool_name text,
    tool_call_id text,
    finish_reason text,
    token_count integer,
    content_json text,
    reasoning_json text,
    tool_calls_json text,
    batch_id char(32) NOT NULL,
    received_at datetime NOT NULL,
    PRIMARY KEY (install_id, start_at, session_id, message_id)
);
-- statement
CREATE INDEX telemetry_contentsession_start ON telemetry_contentsession (start_at);
-- statement
CREATE INDEX telemetry_contentmessage_start ON telemetry_contentmessage (start_at);
