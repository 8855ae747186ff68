-- The group of an install when its row came in, and a way to a batch's rows.

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
CREATE INDEX telemetry_run_batch ON telemetry_run (batch_id);
-- statement
CREATE INDEX telemetry_modelcall_batch ON telemetry_modelcall (batch_id);
-- statement
CREATE INDEX telemetry_toolcall_batch ON telemetry_toolcall (batch_id);
-- statement
CREATE INDEX telemetry_errorevent_batch ON telemetry_errorevent (batch_id);
