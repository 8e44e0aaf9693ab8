# Sourced by tests/run: the broker and the S3 server that the tests talk to.
# shellcheck shell=bash disable=SC2154 # set by tests/run

# Both end when their standard input does: they cannot outlive this script, however that ends.
broker_pid='' broker_input=''
s3_pid='' s3_input=''

start_broker() {
  exec {broker_input}> >(exec tests/lib/broker "$work/broker" >"$work/broker.out" 2>"$work/broker.err")
  broker_pid=$!
  local address
  address=$(wait_for broker "$broker_pid" ready) || return
  export GANNET_TEST_AMQP_URL=$address/%2f GANNET_TEST_BROKER_DIR=$work/broker
  echo "RabbitMQ at $address"
}

start_s3() {
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=testtest AWS_REGION=us-east-1
  mkdir -p "$work/s3"
  exec {s3_input}> >(serve_s3 >"$work/s3.out" 2>"$work/s3.err")
  s3_pid=$!
  GANNET_TEST_S3=$(wait_for s3 "$s3_pid" "listening on") || return
  export GANNET_TEST_S3
  echo "S3 at $GANNET_TEST_S3"
}

# The server, until the standard input ends.
serve_s3() {
  "$target/release/s3-server" --root "$work/s3" --port 0 --bucket gannet-test --log "$work/s3.requests" \
    --access-key "$AWS_ACCESS_KEY_ID" --secret-key "$AWS_SECRET_ACCESS_KEY" </dev/null &
  trap 'kill $!; wait' EXIT
  trap 'exit 0' TERM INT HUP
  while kill -0 $! 2>/dev/null; do
    local status=0
    read -r -t 1 || status=$?
    [[ $status != 1 ]] || exit 0
  done
}

# wait_for NAME PID WORDS: prints what follows WORDS in the output of the service NAME, once it says so.
wait_for() {
  local name=$1 pid=$2 words=$3 deadline=$((SECONDS + 240))
  until grep -q "^$words " "$work/$name.out" 2>/dev/null; do
    if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > deadline)); then
      cat "$work/$name.out" "$work/$name.err" >&2
      return 1
    fi
    sleep 0.1
  done
  sed -n "s/^$words //p" "$work/$name.out"
}

stop_services() {
  if [[ -n $s3_pid ]]; then
    exec {s3_input}>&-
    wait "$s3_pid" 2>/dev/null || true
  fi
  if [[ -n $broker_pid ]]; then
    exec {broker_input}>&-
    wait "$broker_pid" 2>/dev/null || true
  fi
}
