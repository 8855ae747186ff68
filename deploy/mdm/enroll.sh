#!/bin/sh
# Enrolls the agent of each user of this machine that has one. For MDM tools that run scripts as root;
# it may run any number of times. Usage: enroll.sh URL TOKEN_FILE   (Jamf: parameters 4 and 5)

set -eu
url=${4:-${1:-}}
token=${5:-${2:-}}
[ -n "$url" ] && [ -r "$token" ] || { echo "usage: enroll.sh URL TOKEN_FILE" >&2; exit 2; }
homes=${HERMES_HOMES:-"/home/* /Users/*"}
failed=0

# Runs a command as a user; by itself when it is that user already (a test, or a machine with one user).
as_user() {
    owner=$1
    shift
    if [ "$(id -un)" = "$owner" ]; then "$@"
    elif command -v runuser >/dev/null 2>&1; then runuser -u "$owner" -- "$@"
    else sudo -u "$owner" -- "$@"; fi
}

for home in $homes; do
    agent=$home/.hermes
    [ -d "$agent" ] || continue
    # What is enrolled stays as it is.
    [ ! -e "$agent/telemetry/credential" ] || continue
    owner=$(ls -ld "$agent" | awk '{print $3}')
    # Through stdin: the file is root's alone, and an argument would be seen by everybody.
    if as_user "$owner" env HOME="$home" HERMES_HOME="$agent" \
        PATH="$home/.local/bin:$agent/venv/bin:/usr/local/bin:$PATH" \
        hermes-telemetry enroll --no-wait "$url" - <"$token"
    then echo "enrolled: $owner"
    else echo "not enrolled: $owner" >&2; failed=1; fi
done
exit $failed
