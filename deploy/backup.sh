#!/bin/sh
# A backup for cron: keeps KEEP of them, proves each, and speaks only when it failed.
#
#   BACKUP_DIR        where to (default FLEET_HOME/backups); best on another disk
#   KEEP              how many stay (default 14)
#   PASSPHRASE_FILE   seals them; keep a copy of it elsewhere, without it they are lost
#   FLEET_PROGRAM     default /opt/hermes-fleet/.venv/bin/hermes-fleet; fleet-manage knows the
#                     settings of the units
set -eu
program=${FLEET_PROGRAM:-/opt/hermes-fleet/.venv/bin/hermes-fleet}
set -- backup ${BACKUP_DIR:+"$BACKUP_DIR"} --keep "${KEEP:-14}" \
    ${PASSPHRASE_FILE:+--passphrase-file "$PASSPHRASE_FILE"}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "$program" "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "The backup failed; the ones before it are still there." >&2
    exit 1
fi
