#!/bin/sh
# elect.sh NAME TTL ADDRESS -- COMMAND...
#
# Stands for election, and runs a command while it leads. The key
# /elections/NAME holds the leader's address, a space, and who that is.
# The command has its term in DEIMOS_TOKEN, which only grows from leader to
# leader. TERM makes it resign. See docs/coordination.md.
set -u
. "$(dirname "$0")/lease.sh"

if [ $# -lt 5 ] || [ "$4" != -- ]; then fail 2 "usage: elect.sh NAME TTL ADDRESS -- COMMAND..."; fi
prepare "$1" "$2"
key=/elections/$1 value="$3 $owner"
shift 4

take
hold "$@"
