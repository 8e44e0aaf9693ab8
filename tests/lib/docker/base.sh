# Sourced by tests/docker: the images that all stand-ins are made of, from Debian's packages.
# shellcheck shell=bash disable=SC2154 # set by tests/docker

# make_base TAR PACKAGE…: a Debian with these packages, as `docker import` takes it. Made once, and again when this file or
# the list changes.
make_base() {
  local tar=$1 recipe apt=$work/apt.conf more=()
  shift
  recipe=$(cat "${BASH_SOURCE[0]}" - <<<"$*" | sha256sum)
  [[ ! -f $tar || $(cat "$tar.recipe" 2>/dev/null) != "$recipe" ]] || return 0
  say "a base image is made of Debian's packages: $*"
  # How packages are fetched here.
  apt-config dump Acquire >"$apt"
  [[ " $* " != *" gcc "* ]] || more=(--customize-hook="$(add_rust)")
  # Whatever a package starts as it is installed ends with this namespace.
  unshare --mount --pid --fork --kill-child "$BASH" -c 'mount --make-rprivate / && exec "$@"' - \
    mmdebstrap --mode=root --variant=minbase --aptopt="$apt" --include="$(IFS=,; echo "$*")" "${more[@]}" \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/base.tar" >"$work/base.log" 2>&1 || {
    tail -n 20 "$work/base.log" >&2
    give_up "Debian's packages cannot be had: $(grep -m 1 '^E: ' "$work/base.log")"
  }
  mv "$work/base.tar" "$tar"
  echo "$recipe" >"$tar.recipe"
}

# The command that brings the toolchain of this machine, and the crates that cargo has fetched, to where the image `rust` has
# its own. $1 is the folder of the image.
add_rust() {
  local cargo=${CARGO_HOME:-$HOME/.cargo}
  echo "cp -a '$(rustc --print sysroot)' \"\$1/usr/local/rust\" && rm -rf \"\$1/usr/local/rust/share\"" \
    "&& mkdir -p \"\$1/usr/local/cargo/registry\"" \
    "&& cp -a '$cargo/registry/index' '$cargo/registry/cache' \"\$1/usr/local/cargo/registry/\""
}
