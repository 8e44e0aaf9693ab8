# The producer's image. From the repository's root:
#
#   docker build -f infra/producer.Dockerfile -t gannet-producer .
#
# Both base images are arguments: a place without a registry names its own. It needs neither BuildKit nor buildx.

# The toolchain, and a C compiler; Debian's package nasm is installed where it is missing.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
# The program brings the few libraries that it needs, and no command is run: an empty image does.
ARG RUNTIME_IMAGE=scratch

# The workspace without its sources: what follows from it is built again only when a manifest or the lock file changes.
FROM ${RUST_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN mkdir /manifests \
    && find . -name Cargo.toml -o -name Cargo.lock | xargs cp --parents -t /manifests \
    && for each in $(find . -path '*/src/lib.rs' -o -path '*/src/main.rs' -o -path '*/src/bin/*.rs'); do \
         mkdir -p "/manifests/${each%/*}" && echo 'fn main() {}' > "/manifests/$each"; done

FROM ${RUST_IMAGE} AS build
# A folder of the context that holds gannet already: then nothing is compiled. It needs a glibc no newer than the image's.
ARG PREBUILT=
ARG CARGO_FLAGS="--release --locked -p producer --no-default-features"
WORKDIR /src
ENV CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
COPY --from=manifests /manifests .
RUN if [ -z "$PREBUILT" ]; then \
      { command -v nasm || { apt-get update && apt-get install -y --no-install-recommends nasm; }; } \
      && cargo build $CARGO_FLAGS; fi
COPY . .
# Cargo compares times: the files just copied may be older than the empty ones that it has built.
RUN if [ -z "$PREBUILT" ]; then \
      find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
      && cargo build $CARGO_FLAGS && PREBUILT=target/release; fi \
    && mkdir -p /out/root/usr/local/bin /out/root/etc/ssl/certs /out/cache \
    && mkdir -m 1777 /out/root/tmp \
    && cp "$PREBUILT/gannet" /out/root/usr/local/bin/ \
    && strip --strip-all /out/root/usr/local/bin/gannet 2>/dev/null || test -x /out/root/usr/local/bin/gannet
# Its libraries and their loader, in the folders of a merged /usr, and whom to trust when a server speaks TLS.
RUN ldd /out/root/usr/local/bin/gannet | grep -o '/lib[^ ]*' | while read -r library; do \
      mkdir -p "/out/root/usr${library%/*}" && cp -L "$library" "/out/root/usr${library%/*}/"; done \
    && for folder in /out/root/usr/lib*; do ln -s "usr/${folder##*/}" "/out/root/${folder##*/}"; done \
    && cp /etc/ssl/certs/ca-certificates.crt /out/root/etc/ssl/certs/

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gannet-producer" \
      org.opencontainers.image.description="Tunes neural networks and labels pictures on a fleet of workers, and sizes the fleet." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gannet/gannet" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/root/ /
# Where commands run: mount what they read and write here. Commands end by themselves, so there is no health check; the
# autoscaler, which does not, brings one in the compose file.
COPY --from=build --chown=65532:65532 /out/cache /work
USER 65532:65532
WORKDIR /work
ENTRYPOINT ["/usr/local/bin/gannet"]
