# Sourced by tests/run: the broker and the S3 server that the tests talk to.
# shellcheck shell=bash disable=SC2154,SC2153 # set by tests/run, or by bash

broker_pid=
broker_input=
s3_pid=

# The node ends when its standard input does: it cannot outlive this script, however that ends.
start_broker() {
  coproc BROKER { exec tests/lib/broker "$work/broker" 2>"$work/broker.err"; }
  broker_pid=$BROKER_PID
  broker_input=${BROKER[1]}
  local word address
  if ! read -r -t 200 word address <&"${BROKER[0]}" || [[ $word != ready ]]; then
    cat "$work/broker.err" >&2
    return 1
  fi
  export GANNET_TEST_AMQP_URL=$address/%2f GANNET_TEST_BROKER_DIR=$work/broker
  echo "RabbitMQ at $address"
}

start_s3() {
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=testtest AWS_REGION=us-east-1
  mkdir -p "$work/s3"
  "$target/release/s3-server" --root "$work/s3" --port 0 --bucket gannet-test --log "$work/s3.requests" \
    --access-key "$AWS_ACCESS_KEY_ID" --secret-key "$AWS_SECRET_ACCESS_KEY" </dev/null >"$work/s3.out" 2>"$work/s3.err" &
  s3_pid=$!
  local deadline=$((SECONDS + 60))
  until grep -q '^listening on ' "$work/s3.out"; do
    if ! kill -0 "$s3_pid" 2>/dev/null || ((SECONDS > deadline)); then
      cat "$work/s3.out" "$work/s3.err" >&2
      return 1
    fi
    sleep 0.1
  done
  GANNET_TEST_S3=$(sed -n 's/^listening on //p' "$work/s3.out")
  export GANNET_TEST_S3
  echo "S3 at $GANNET_TEST_S3"
}

stop_services() {
  if [[ -n $s3_pid ]]; then
    kill "$s3_pid" 2>/dev/null || true
    wait "$s3_pid" 2>/dev/null || true
  fi
  if [[ -n $broker_pid ]]; then
    exec {broker_input}>&- || true
    wait "$broker_pid" 2>/dev/null || true
  fi
}
