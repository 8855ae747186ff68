#!/bin/sh
# Makes the secrets of a deployment, one file each, in the folder that is named (default: secrets).
# What is there already is left alone: a lost pepper or root key means enrolling every agent anew.
#
#   sh make-secrets.sh [--database-host HOST] [--redis-host HOST] [FOLDER]

set -eu
umask 077

database_host=postgres
redis_host=valkey
while [ $# -gt 0 ]; do
    case "$1" in
        --database-host) database_host=$2; shift 2 ;;
        --redis-host) redis_host=$2; shift 2 ;;
        -*) echo "usage: make-secrets.sh [--database-host HOST] [--redis-host HOST] [FOLDER]" >&2; exit 2 ;;
        *) break ;;
    esac
done
folder=${1:-secrets}

# 32 random bytes as 64 hex digits.
random() { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'; }

# Whole or not at all: a file cut short by a full disk would be a secret of its own. Readable by the
# container's user; the folder is closed to everybody else on the machine.
put() {
    [ -e "$folder/$1" ] && return
    printf '%s\n' "$2" >"$folder/.$1.part"
    chmod 0444 "$folder/.$1.part"
    mv "$folder/.$1.part" "$folder/$1"
    echo "made $folder/$1"
}

mkdir -p "$folder"
chmod 0700 "$folder"
put postgres_password "$(random)"
put redis_password "$(random)"
put database_url "postgres://fleet:$(cat "$folder/postgres_password")@$database_host:5432/fleet"
put redis_url "redis://:$(cat "$folder/redis_password")@$redis_host:6379/0"
put secret_key "$(random)"
put token_pepper "$(random)"
put root_key "$(random)"
put policy_key "$(random)"
put metrics_token "$(random)"
