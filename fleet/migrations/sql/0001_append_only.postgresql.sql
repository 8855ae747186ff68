CREATE FUNCTION fleet_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'integrity_constraint_violation';
END
$body$;
-- statement
CREATE TRIGGER fleet_changerecord_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON fleet_changerecord
    FOR EACH STATEMENT EXECUTE FUNCTION fleet_refuse_change();
-- statement
CREATE TRIGGER fleet_policyrevision_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON fleet_policyrevision
    FOR EACH STATEMENT EXECUTE FUNCTION fleet_refuse_change();
-- statement
CREATE TRIGGER fleet_policybundle_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON fleet_policybundle
    FOR EACH STATEMENT EXECUTE FUNCTION fleet_refuse_change();
-- statement
CREATE TRIGGER fleet_policytarget_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON fleet_policytarget
    FOR EACH STATEMENT EXECUTE FUNCTION fleet_refuse_change();
