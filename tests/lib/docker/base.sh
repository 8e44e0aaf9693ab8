# Sourced by tests/docker: the images that all stand-ins are made of, from Debian's packages.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

# make_base TAR PACKAGE…: a Debian with these packages, as `docker import` takes it. Made once, and again when this file or
# the list changes.
make_base() {
  local tar=$1 root=$work/base recipe
  shift
  recipe=$(cat "${BASH_SOURCE[0]}" - <<<"$*" | sha256sum)
  [[ ! -f $tar || $(cat "$tar.recipe" 2>/dev/null) != "$recipe" ]] || return 0
  say "building a base image of Debian's packages: $*"
  # Whatever a package starts as it is installed ends with this namespace.
  unshare --mount --pid --fork --kill-child "$BASH" -euo pipefail -c \
    "$(declare -f install_base add_rust); install_base \"\$@\"" - "$root" "$@" >"$work/base.log" 2>&1 ||
    { tail -n 20 "$work/base.log" >&2; return 1; }
  tar -C "$root" --one-file-system --exclude=./var/cache/apt --exclude=./var/lib/apt/lists --exclude=./usr/share/doc \
    --exclude=./usr/share/man --exclude='./proc/*' --exclude='./sys/*' -cf "$tar.new" .
  rm -rf "$root"
  mv "$tar.new" "$tar"
  echo "$recipe" >"$tar.recipe"
}

# install_base ROOT PACKAGE…
install_base() {
  local root=$1
  shift
  mount --make-rprivate /
  debootstrap --variant=minbase bookworm "$root"
  # No service starts inside.
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod +x "$root/usr/sbin/policy-rc.d"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends "$@"
  # Stands in for the package ca-certificates, which the images copy it from.
  mkdir -p "$root/etc/ssl/certs"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  [[ " $* " != *" gcc "* ]] || add_rust "$root"
}

# The toolchain of this machine, and the crates that cargo has fetched, where the image `rust` has its own.
add_rust() {
  local cargo=${CARGO_HOME:-$HOME/.cargo}
  cp -a "$(rustc --print sysroot)" "$1/usr/local/rust"
  rm -rf "$1/usr/local/rust/share"
  mkdir -p "$1/usr/local/cargo/registry"
  cp -a "$cargo/registry/index" "$cargo/registry/cache" "$1/usr/local/cargo/registry/"
}
