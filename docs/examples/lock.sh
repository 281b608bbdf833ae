#!/bin/sh
# lock.sh NAME TTL -- COMMAND...
#
# Runs a command while it holds a lock, which is the key /locks/NAME. All who
# wait try when it is free, so the order is anybody's; queue-lock.sh keeps one.
# The command has the fencing token in DEIMOS_TOKEN. It gets TERM, and then
# KILL, before anybody else can have the lock. See docs/coordination.md.
set -u
. "$(dirname "$0")/lease.sh"

if [ $# -lt 4 ] || [ "$3" != -- ]; then fail 2 "usage: lock.sh NAME TTL -- COMMAND..."; fi
prepare "$1" "$2"
key=/locks/$1 value=$owner
shift 3

take
hold "$@"
