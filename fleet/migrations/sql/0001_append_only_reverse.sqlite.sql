DROP TRIGGER fleet_changerecord_no_update;
-- statement
DROP TRIGGER fleet_changerecord_no_delete;
-- statement
DROP TRIGGER fleet_policyrevision_no_update;
-- statement
DROP TRIGGER fleet_policyrevision_no_delete;
-- statement
DROP TRIGGER fleet_policybundle_no_update;
-- statement
DROP TRIGGER fleet_policybundle_no_delete;
-- statement
DROP TRIGGER fleet_policytarget_no_update;
-- statement
DROP TRIGGER fleet_policytarget_no_delete;
