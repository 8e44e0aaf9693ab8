# Sourced by tests/docker: the engine, and the images that the compose file names.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

have_engine() {
  have dockerd && have docker && have docker-compose && have mmdebstrap && have iptables
}

# What the images are built from: the files of this workspace, and the programs that are built already.
make_tree() {
  mkdir -p "$work/tree/prebuilt" "$work/files" "$work/stand-ins"
  git ls-files --cached --others --exclude-standard -z | xargs -0 cp --parents -t "$work/tree"
  local program
  for program in gannet gannet-worker; do
    [[ -x $target/release/$program ]] || die "build $program first: cargo build --release --workspace"
    strip --strip-all -o "$work/tree/prebuilt/$program" "$target/release/$program"
  done
  cp tests/lib/docker/{rabbitmq,minio,mc} "$target/release/s3-server" "$work/stand-ins"
  # The programs in containers are nobody here.
  chown 65532:65532 "$work/files"
}

start_engine() {
  mount --make-rprivate /
  ip link set lo up
  local socket=$work/engine/socket
  mkdir -p "$work/engine"
  export DOCKER_HOST=unix://$socket DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 COMPOSE_PROJECT_NAME=gannet
  export DOCKER_CONFIG=$work/engine/client
  dockerd --host "$DOCKER_HOST" --data-root "$work/engine/data" --exec-root "$work/engine/exec" \
    --pidfile "$work/engine/pid" --cgroup-parent "${work##*/}" >"$work/engine.log" 2>&1 &
  until docker version >/dev/null 2>&1; do
    kill -0 $! 2>/dev/null || give_up "the engine does not start: $(tail -n 1 "$work/engine.log")"
    sleep 0.2
  done
  say "engine $(docker version --format '{{.Server.Version}}') runs"
}

# image NAME FROM LINE…: builds an image with the stand-ins at hand.
image() {
  local name=$1 from=$2
  shift 2
  { echo "FROM $from"; printf '%s\n' "$@"; } >"$work/stand-ins/Dockerfile"
  docker build --quiet --tag "$name" "$work/stand-ins" >>"$work/build.log" 2>&1
}

# service_image SERVICE: what the compose file calls it.
service_image() {
  awk -v service="  $1:" '$0 == service { on = 1 } on && $1 == "image:" { print $2; exit }' "$work/compose.yml"
}

# Those that somebody else makes. Ours are built by compose, when it needs them.
make_images() {
  compose --profile prometheus config >"$work/compose.yml"
  docker import "$target/docker/base.tar" gannet-test/base >/dev/null
  image "$(service_image rabbitmq)" gannet-test/base 'COPY rabbitmq /usr/local/bin/docker-entrypoint.sh' \
    "RUN echo '[rabbitmq_management,rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins"
  image "$(service_image minio)" gannet-test/base 'COPY minio mc s3-server /usr/local/bin/' 'ENTRYPOINT ["minio"]'
  image "$(service_image store-setup)" gannet-test/base 'COPY mc /usr/local/bin/'
  if [[ -z $quick ]]; then
    docker import "$target/docker/prometheus.tar" gannet-test/prometheus >/dev/null
    image "$(service_image prometheus)" gannet-test/prometheus \
      'ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
  fi
  export RUST_IMAGE=gannet-test/base GANNET_PREBUILT=prebuilt
  if [[ -n $compile ]]; then
    docker import --change 'ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true' "$target/docker/rust.tar" gannet-test/rust >/dev/null
    export RUST_IMAGE=gannet-test/rust GANNET_PREBUILT=''
  fi
  say "stand-ins are made"
}

# After the namespaces are gone: what they leave on this machine.
clean_up() {
  local group
  for group in /sys/fs/cgroup/*/"${work##*/}" /sys/fs/cgroup/"${work##*/}"; do
    [[ ! -d $group ]] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}
