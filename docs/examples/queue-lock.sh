#!/bin/sh
# queue-lock.sh NAME TTL -- COMMAND...
#
# As lock.sh, but fair: who comes first is first, and a release wakes only the
# one who is next. The queue is the directory /locks/_queue/NAME, which the _
# hides from listings and watches of /locks. See docs/coordination.md.
set -u
. "$(dirname "$0")/lease.sh"

if [ $# -lt 4 ] || [ "$3" != -- ]; then fail 2 "usage: queue-lock.sh NAME TTL -- COMMAND..."; fi
prepare "$1" "$2"
queue=/locks/_queue/$1 value=$owner
shift 3

# places: the keys in the last answer, a line for each, first come first.
places() { printf '%s\n' "$body" | tr ',' '\n' | sed -n 's|.*"key":"\(/.*/[0-9]\{20\}\)".*|\1|p'; }

# join takes a place at the end of the queue, the key of which is $key.
join() {
    while :; do
        now
        asked=$now
        request POST "$queue" --data-urlencode "value=$value" -d "ttl=$ttl"
        case $status in
        201)
            key=$(places) sent=$asked token=$created
            return
            ;;
        4*) fail 1 "a place in $queue cannot be made: $status $body" ;;
        esac
        sleep 1
        # It may have been made all the same; since when it counts is not known.
        # One that is made even later goes by its TTL.
        sent=$((now - ttl))
        request GET "$queue"
        key=$(printf '%s\n' "$body" | sed -n 's|.*"key":"\(/[^"]*\)","value":"'"$value"'".*|\1|p')
        [ -z "$key" ] || return
    done
}

# ahead sets $before to the place ahead of this one, empty if it is the first.
# It fails if this place is not there.
ahead() {
    before=''
    for place in $(places); do
        [ "$place" != "$key" ] || return 0
        before=$place
    done
    return 1
}

join
while :; do
    now
    if due && ! renew; then
        case $status in
        404 | 412) join ;; # the place was lost
        *) sleep 1 ;;
        esac
        continue
    fi
    request GET "$queue"
    case $status in
    200 | 404) ahead || { join && continue; } ;;
    *) sleep 1 && continue ;;
    esac
    [ -n "$before" ] || break
    watch "$before" $((index + 1))
done
hold "$@"
