# lease.sh: what lock.sh, queue-lock.sh and elect.sh have in common; they read
# it, it is not run. docs/coordination.md explains what it does, step by step.
#
# A lease is a key with a TTL whose value no one else writes. It is counted
# here from the moment before the request was sent that took or renewed it, and
# is over two margins before the cluster could give the key to another.
#
# It needs curl, setsid, and the clock of Linux that nobody can set. Where to
# find the cluster is in DEIMOS_ENDPOINTS, client URLs with commas between them.
# Certificates and the like belong into the .curlrc of the caller.
# shellcheck shell=sh disable=SC2034,SC2154 # $owner, $value: between the scripts

# prepare NAME TTL: checks what every script is given, and makes an owner's name
# that nobody else has.
prepare() {
    case $1 in
    '' | [._]* | *[!A-Za-z0-9._-]*) fail 2 "bad name \"$1\": make it of letters, digits, '-', '_' and '.', a letter or digit first" ;;
    esac
    case $2 in
    '' | 0* | *[!0-9]* | ???????*) fail 2 "bad TTL \"$2\": give whole seconds" ;;
    esac
    [ "$2" -ge 8 ] || fail 2 "bad TTL \"$2\": a lease needs at least 8 seconds, and 15 to survive an election of the cluster"
    for need in curl setsid; do
        command -v $need >/dev/null || fail 2 "this script needs $need"
    done
    [ -r /proc/uptime ] || fail 2 "this script needs a clock that nobody can set, and there is no /proc/uptime"
    ttl=$2
    margin=$((1 + ttl / 10))
    limit=$((ttl < 50 ? ttl / 5 : 10))    # the longest a request may take
    patience=$((ttl < 90 ? ttl / 3 : 30)) # and the longest a watch
    endpoints=${DEIMOS_ENDPOINTS:-http://127.0.0.1:4001},
    owner=$(uname -n).$$.$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
    key='' watcher='' sent=0
    exec 3<&0 # for the command: what runs in the background has no input
    trap quit HUP INT TERM
}

fail() {
    echo "${0##*/}: $2" >&2
    exit "$1"
}

# now sets $now to whole seconds.
now() {
    read -r now _ </proc/uptime
    now=${now%.*}
}

# past SECONDS: may the lease be that old? The clock has whole seconds and is
# looked at once a second, so this says yes a little early, never late.
past() {
    now
    [ $((now + 1 - sent)) -ge "$1" ]
}

# due: is it time to renew? After past, which looks at the clock.
due() { [ $((now - sent)) -ge $((ttl / 3)) ]; }

# request METHOD PATH [curl's arguments]: sets $status, 000 when there is no
# whole answer, $body, $index and $created. A member that has no answer, or that
# has failed, is not asked again before the others.
request() {
    method=$1 path=$2
    shift 2
    answer=$(curl -s -i -w '\n%{http_code}' --http1.1 --max-time "$limit" -X "$method" "$@" \
        "${endpoints%%,*}/keys$path" 2>/dev/null) || answer=000
    status=${answer##*[!0-9]}
    body=$(printf '%s\n' "$answer" | sed -n '/^{/p')
    index=$(printf '%s\n' "$answer" | sed -n 's/^[Xx]-[Dd]eimos-[Ii]ndex: *\([0-9]*\).*/\1/p')
    created=$(printf '%s\n' "$body" | sed -n 's/.*"createdIndex":\([0-9]*\).*/\1/p')
    case $status in 000 | 5*) elsewhere ;; esac
}

elsewhere() { endpoints=${endpoints#*,}${endpoints%%,*},; }

# watch PATH INDEX: waits for an event with that index or a later one, but not
# for long: a member that is cut off has none to tell. What it was does not
# matter, for whoever waits looks again. It runs in the background because a
# shell hears a signal while it waits, not while it runs something.
watch() {
    curl -s -f -o /dev/null --max-time "$patience" "${endpoints%%,*}/keys$1?wait=true&waitIndex=$2" 2>/dev/null &
    watcher=$!
    if ! wait "$watcher"; then
        elsewhere
        sleep 1
    fi
    watcher=''
}

# quit ends a script that waits.
quit() {
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null
    release
    exit 143
}

# take waits until this owner has made $key. It sets $token.
take() {
    doubt=''
    while :; do
        # A request without an answer may have made the key. Renewing works
        # only for its owner, and says since when the lease counts.
        if [ -n "$doubt" ] && renew; then return; fi
        now
        asked=$now
        request PUT "$key?prevExist=false" --data-urlencode "value=$value" -d "ttl=$ttl"
        case $status in
        201)
            sent=$asked token=$created
            return
            ;;
        412) watch "$key" $((index + 1)) ;;
        4*) fail 1 "$key cannot be made: $status $body" ;;
        *) doubt=yes && sleep 1 ;;
        esac
    done
}

# renew gives the lease a new TTL if it is this owner's still.
renew() {
    now
    asked=$now
    request PUT "$key?refresh=true" --data-urlencode "prevValue=$value" -d "ttl=$ttl"
    [ "$status" = 200 ] || return 1
    sent=$asked token=$created
}

# release removes the key if it is this owner's still. If no member answers,
# the TTL does it.
release() {
    [ -n "$key" ] || return 0
    for pause in 1 1 0; do
        request DELETE "$key" --data-urlencode "prevValue=$value"
        case $status in 2* | 4*) return ;; esac
        sleep $pause
    done
}

# hold COMMAND...: runs the command while the lease lasts, with the token in
# DEIMOS_TOKEN, releases, and exits: with 75 if the lease was lost, else with
# what the command says.
hold() {
    if past $((ttl - 2 * margin)); then
        release
        fail 75 "the lease was over before the command could start"
    fi
    export DEIMOS_TOKEN="$token"
    job='' stop='' lost=''
    trap 'stop=yes; [ -z "$job" ] || tell TERM' HUP INT TERM
    trap 'lost=yes' USR1
    setsid "$@" <&3 3<&- & # a group of its own, so that its children are stopped with it
    job=$!
    [ -z "$stop" ] || tell TERM
    keep & # until here nobody watches over the command: a moment, but one
    keeper=$!
    code=0
    wait "$job" || code=$?
    while kill -0 "$job" 2>/dev/null; do # it was a signal that ended the wait
        code=0
        wait "$job" || code=$?
    done
    tell KILL # what the command has left running
    kill -s KILL "$keeper" 2>/dev/null
    wait "$keeper" 2>/dev/null
    release
    [ -z "$lost" ] || fail 75 "the lease was lost and the command was stopped"
    exit "$code"
}

# tell SIGNAL: sends it to the command and its children.
tell() { kill -s "$1" -- "-$job" 2>/dev/null || kill -s "$1" "$job" 2>/dev/null; }

# keep renews the lease until it cannot. Then it stops the command, with TERM
# while the lease of the cluster's count still has two margins, and with KILL
# when it has one. It does so too when the script that waits was killed.
keep() {
    trap '' HUP INT TERM
    gentle=yes
    while kill -0 $$ 2>/dev/null && ! past $((ttl - 2 * margin)); do
        if due && ! renew; then
            case $status in 404 | 412) gentle='' && break ;; esac # another may have it
        fi
        sleep 1 >/dev/null 2>&1
    done
    kill -s USR1 $$ 2>/dev/null
    [ -z "$gentle" ] || tell TERM
    while [ -n "$gentle" ] && kill -s 0 -- "-$job" 2>/dev/null && ! past $((ttl - margin)); do
        sleep 1 >/dev/null 2>&1
    done
    tell KILL
    kill -0 $$ 2>/dev/null || release
}
