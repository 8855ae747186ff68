-- The group of an install when its row came in, and a way to a batch's rows: rows come in as
-- time goes on, so BRIN on received_at finds the newest without a scan.

ALTER TABLE telemetry_run ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_modelcall ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_toolcall ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_errorevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_span ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_gatewayevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_cronevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_skillevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_memoryevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
ALTER TABLE telemetry_feedbackevent ADD COLUMN group_id bigint NOT NULL DEFAULT 0;
-- statement
CREATE INDEX telemetry_run_received_brin ON telemetry_run USING brin (received_at) WITH (pages_per_range = 32);
-- statement
CREATE INDEX telemetry_modelcall_received_brin ON telemetry_modelcall USING brin (received_at) WITH (pages_per_range = 32);
-- statement
CREATE INDEX telemetry_toolcall_received_brin ON telemetry_toolcall USING brin (received_at) WITH (pages_per_range = 32);
-- statement
CREATE INDEX telemetry_errorevent_received_brin ON telemetry_errorevent USING brin (received_at) WITH (pages_per_range = 32);
