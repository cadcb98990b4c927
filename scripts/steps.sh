# Steps of a longer job: one line a step with its time, the log of what failed, a table at the end. Sourced.

logs=$(mktemp -d)
names=() outcomes=() times=()
passed=0 failed=0
declare -A background=()

# Background jobs have process groups of their own (see `beside`), so that all of a job ends here, not only its shell.
end_jobs() {
    local name
    for name in "${!background[@]}"; do
        # Its group exists only once setsid has run.
        kill -- "-${background[$name]}" 2>/dev/null || kill "${background[$name]}" 2>/dev/null || true
    done
    rm -rf "$logs"
}
trap end_jobs EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# step NAME WHAT COMMAND...: runs the command, quietly when it succeeds. Goes on after a failure, which the job's end tells.
step() {
    local name=$1 what=$2 begun=$SECONDS log=$logs/${#names[@]} status=0
    shift 2
    printf '%-70s ' "$name: $what"
    "$@" >"$log" 2>&1 || status=$?
    conclude "$name" "$log" "$status" $((SECONDS - begun))
    return 0
}

# beside NAME COMMAND...: starts the command in the background; `await` waits for it.
beside() {
    local name=$1
    shift
    setsid "$@" >"$logs/$name" 2>&1 &
    background[$name]=$!
}

# meanwhile NAME COMMAND...: the same at low priority, for what mostly waits or is in no hurry.
meanwhile() {
    local name=$1
    shift
    beside "$name" nice -n 19 "$@"
}

# await NAME WHAT: the step that a background command is; its time is the time waited.
await() {
    local name=$1 begun=$SECONDS status=0
    printf '%-70s ' "$name: $2"
    wait "${background[$name]}" || status=$?
    unset "background[$name]"
    conclude "$name" "$logs/$name" "$status" $((SECONDS - begun))
    return 0
}

conclude() { # NAME LOG STATUS SECONDS
    local outcome=passed
    if [ "$3" = 0 ]; then
        passed=$((passed + 1))
    else
        outcome="failed ($3)" failed=$((failed + 1))
    fi
    printf '%5d s  %s\n' "$4" "$outcome"
    names+=("$1") outcomes+=("$outcome") times+=("$4")
    # Of tests that passed nobody needs to read, and who keeps this output may keep only so many lines of it.
    [ "$3" = 0 ] || sed -e '/^test .* \.\.\. ok\r\{0,1\}$/d' -e 's/^/    /' "$2"
}

# not_run NAME WHY: a step that cannot be run here and is not counted.
not_run() {
    printf '%-70s %5s    not run\n' "$1: $2" ""
    names+=("$1") outcomes+=("not run: $2") times+=("-")
}

# The table, the count as the last line, and the job's exit status.
summary() {
    local at
    printf '\n%-14s %8s  %s\n' step seconds outcome
    for at in "${!names[@]}"; do
        printf '%-14s %8s  %s\n' "${names[$at]}" "${times[$at]}" "${outcomes[$at]}"
    done
    printf '%-14s %8d\n\n' all "$SECONDS"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
}
