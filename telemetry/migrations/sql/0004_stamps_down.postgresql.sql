DROP INDEX telemetry_run_received_brin;
-- statement
DROP INDEX telemetry_modelcall_received_brin;
-- statement
DROP INDEX telemetry_toolcall_received_brin;
-- statement
DROP INDEX telemetry_errorevent_received_brin;
-- statement
ALTER TABLE telemetry_run DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_modelcall DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_toolcall DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_errorevent DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_span DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_gatewayevent DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_cronevent DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_skillevent DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_memoryevent DROP COLUMN group_id;
-- statement
ALTER TABLE telemetry_feedbackevent DROP COLUMN group_id;
