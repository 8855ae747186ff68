-- Takes every day and its rows along.
DROP TABLE telemetry_span;
-- statement
DROP TABLE telemetry_gatewayevent;
-- statement
DROP TABLE telemetry_cronevent;
-- statement
DROP TABLE telemetry_skillevent;
-- statement
DROP TABLE telemetry_memoryevent;
-- statement
DROP TABLE telemetry_feedbackevent;
