# Sourced by tests/run: its steps, what was skipped, and the closing lines.
# shellcheck shell=bash disable=SC2154 # set by tests/run, or by bash

failed_steps=()
skipped_steps=()

# step WHAT COMMAND…: a failure is remembered, and the next step comes.
step() {
  local what=$1 began=$SECONDS
  shift
  echo "== $what"
  if "$@"; then
    echo "== $what: done in $((SECONDS - began)) s"
  else
    echo "== $what: FAILED after $((SECONDS - began)) s"
    failed_steps+=("$what")
  fi
}

# must_step WHAT COMMAND…: what follows makes no sense without it.
must_step() {
  step "$@"
  ((${#failed_steps[@]} == 0)) || [[ ${failed_steps[-1]} != "$1" ]] || exit 1
}

# skip WHAT REASON
skip() {
  skipped_steps+=("$1: $2")
}

# Runs at exit, whatever happened: stops what was started, then says how it went.
finish() {
  local status=$1
  trap '' INT TERM HUP
  stop_services
  echo
  report || status=1
  if ((${#failed_steps[@]})); then
    printf 'FAILED step: %s\n' "${failed_steps[@]}"
    status=1
  fi
  if ((status == 0)); then
    rm -rf "$work"
  else
    echo "logs of the services: $work"
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  exit "$status"
}

# The runners' own closing lines, then every skip with its reason; sets passed, failed and skipped.
report() {
  passed=0 failed=0 skipped=0
  local logs=() log ran bad skips
  for log in "$work/tests.log" "$work/doc-tests.log"; do
    [[ ! -f $log ]] || logs+=("$log")
  done
  if ((${#logs[@]})); then
    grep -hE '^ *Summary \[|^test result: ' "${logs[@]}" || true
    while read -r ran bad; do
      passed=$((passed + ran - bad)) failed=$((failed + bad))
    done < <(counts "${logs[@]}")
  fi
  [[ ! -f $junit ]] || logs+=("$junit")
  # A test that skips itself has passed, as far as its runner knows.
  skips=$(skipped_tests "${logs[@]}")
  if [[ -n $skips ]]; then
    echo "$skips"
    skipped=$(wc -l <<<"$skips")
    passed=$((passed - skipped))
  fi
  if ((${#skipped_steps[@]})); then
    printf 'SKIPPED %s\n' "${skipped_steps[@]}"
    skipped=$((skipped + ${#skipped_steps[@]}))
  fi
}

# "RAN FAILED" for each closing line of cargo test, and for nextest's report.
counts() {
  awk '/^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p = $(i - 1); if ($i ~ /^failed/) f = $(i - 1) } print p + f, f }' "$@"
  [[ ! -f $junit ]] ||
    sed -nE 's/.*<testsuites .*tests="([0-9]+)" .*failures="([0-9]+)" .*errors="([0-9]+)".*/\1 \2 \3/p' "$junit" |
    awk '{ print $1, $2 + $3 }'
}

# Tests print `SKIPPED name: reason`; nextest keeps what a passed test printed in its report.
skipped_tests() {
  (($#)) || return 0
  { grep -hoE 'SKIPPED [^<]+: [^<]+' "$@" || true; } |
    sed -e "s/&apos;/'/g" -e 's/&quot;/"/g' -e 's/&lt;/</g' -e 's/&gt;/>/g' -e 's/&amp;/\&/g' | sort -u
}
