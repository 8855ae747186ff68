DROP TABLE telemetry_contentmessage;
-- statement
DROP TABLE telemetry_contentsession;
