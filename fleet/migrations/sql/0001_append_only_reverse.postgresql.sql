DROP TRIGGER fleet_changerecord_append_only ON fleet_changerecord;
-- statement
DROP TRIGGER fleet_policyrevision_append_only ON fleet_policyrevision;
-- statement
DROP TRIGGER fleet_policybundle_append_only ON fleet_policybundle;
-- statement
DROP TRIGGER fleet_policytarget_append_only ON fleet_policytarget;
-- statement
DROP FUNCTION fleet_refuse_change();
