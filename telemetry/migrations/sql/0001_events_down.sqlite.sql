-- Takes every day and its rows along.
DROP TABLE telemetry_run;
-- statement
DROP TABLE telemetry_modelcall;
-- statement
DROP TABLE telemetry_toolcall;
-- statement
DROP TABLE telemetry_errorevent;
