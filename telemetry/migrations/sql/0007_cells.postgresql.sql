-- Cells are updated in place again and again: with room on its page an update writes no index, and
-- a histogram that is not compressed costs half as much. The queue of touches is emptied as fast as
-- it is filled: what the planner knew of it yesterday is wrong today.

ALTER TABLE telemetry_runscell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_costscell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_modelcallscell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_toolcallscell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_errorscell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_installcell SET (fillfactor = 60);
-- statement
ALTER TABLE telemetry_histogramcell SET (fillfactor = 50, toast_tuple_target = 8160);
-- statement
ALTER TABLE telemetry_touchedhour SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
-- statement
ALTER TABLE telemetry_replacedrun SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
