ALTER TABLE telemetry_runscell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_costscell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_modelcallscell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_toolcallscell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_errorscell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_installcell RESET (fillfactor);
-- statement
ALTER TABLE telemetry_histogramcell RESET (fillfactor, toast_tuple_target);
-- statement
ALTER TABLE telemetry_touchedhour RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
-- statement
ALTER TABLE telemetry_replacedrun RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
