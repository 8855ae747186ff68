CREATE TRIGGER fleet_changerecord_no_update BEFORE UPDATE ON fleet_changerecord
BEGIN
    SELECT RAISE(ABORT, 'fleet_changerecord is append-only: UPDATE refused');
END;
-- statement
CREATE TRIGGER fleet_changerecord_no_delete BEFORE DELETE ON fleet_changerecord
BEGIN
    SELECT RAISE(ABORT, 'fleet_changerecord is append-only: DELETE refused');
END;
-- statement
CREATE TRIGGER fleet_policyrevision_no_update BEFORE UPDATE ON fleet_policyrevision
BEGIN
    SELECT RAISE(ABORT, 'fleet_policyrevision is append-only: UPDATE refused');
END;
-- statement
CREATE TRIGGER fleet_policyrevision_no_delete BEFORE DELETE ON fleet_policyrevision
BEGIN
    SELECT RAISE(ABORT, 'fleet_policyrevision is append-only: DELETE refused');
END;
-- statement
CREATE TRIGGER fleet_policybundle_no_update BEFORE UPDATE ON fleet_policybundle
BEGIN
    SELECT RAISE(ABORT, 'fleet_policybundle is append-only: UPDATE refused');
END;
-- statement
CREATE TRIGGER fleet_policybundle_no_delete BEFORE DELETE ON fleet_policybundle
BEGIN
    SELECT RAISE(ABORT, 'fleet_policybundle is append-only: DELETE refused');
END;
-- statement
CREATE TRIGGER fleet_policytarget_no_update BEFORE UPDATE ON fleet_policytarget
BEGIN
    SELECT RAISE(ABORT, 'fleet_policytarget is append-only: UPDATE refused');
END;
-- statement
CREATE TRIGGER fleet_policytarget_no_delete BEFORE DELETE ON fleet_policytarget
BEGIN
    SELECT RAISE(ABORT, 'fleet_policytarget is append-only: DELETE refused');
END;
