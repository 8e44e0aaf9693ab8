# Sourced by tests/run: installs what the tests need and is not there.
# shellcheck shell=bash disable=SC2154 # set by tests/run, or by bash

have() { command -v "$1" >/dev/null 2>&1; }

install_tools() {
  have cargo || { echo "install Rust first: https://rustup.rs" >&2; return 1; }
  have cc || apt_install "a C compiler" build-essential || return 1
  have_rabbitmq || apt_install "RabbitMQ" rabbitmq-server || return 1
  # Without them the tests of their completions say that they are skipped.
  { have zsh && have fish; } || apt_install "zsh or fish" zsh fish || true
  prepare_python || skip "the Python client's packages" "no python3 with venv and pip, or pip could not install them"
}

have_rabbitmq() {
  [[ -x ${GANNET_TEST_RABBITMQ:-/usr/lib/rabbitmq/bin}/rabbitmq-server ]] || have rabbitmq-server
}

# apt_install WHAT PACKAGE…
apt_install() {
  local what=$1
  shift
  if ! have apt-get || [[ $(id -u) != 0 ]]; then
    echo "$what is missing and cannot be installed from here. On Debian or Ubuntu: sudo apt-get install $*" >&2
    return 1
  fi
  echo "installing $what: $*"
  # Debian starts a service as it installs it. The tests start a node of their own: this one stays off.
  local policy=/usr/sbin/policy-rc.d ours='' status=0
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && ours=1
  fi
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >"$work/apt.log" 2>&1 || status=$?
  [[ -z $ours ]] || rm -f "$policy"
  ((status == 0)) || tail -n 20 "$work/apt.log" >&2
  return "$status"
}

# A virtual environment with what tests/python needs, made again when its list changes.
prepare_python() {
  local venv=$target/test-venv wanted=tests/python/requirements.txt
  if ! cmp -s "$wanted" "$venv/requirements.txt"; then
    rm -rf "$venv"
    echo "installing tests/python/requirements.txt into target/test-venv"
    python3 -m venv "$venv" >"$work/venv.log" 2>&1 ||
      { apt_install "Python" python3 python3-venv python3-pip && python3 -m venv "$venv"; } || return 1
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$wanted" || return 1
    cp "$wanted" "$venv/requirements.txt"
  fi
  export GANNET_TEST_PYTHON=$venv/bin/python
}
