# The worker's image. From the repository's root:
#
#   docker build -f infra/worker.Dockerfile -t gannet-worker .
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
# A folder of the context that holds gannet-worker already: then nothing is compiled. It needs a glibc no newer than the image's.
ARG PREBUILT=
ARG CARGO_FLAGS="--release --locked -p worker"
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
    && cp "$PREBUILT/gannet-worker" /out/root/usr/local/bin/ \
    && strip --strip-all /out/root/usr/local/bin/gannet-worker 2>/dev/null || test -x /out/root/usr/local/bin/gannet-worker
# Its libraries and their loader, in the folders of a merged /usr, and whom to trust when a server speaks TLS.
RUN ldd /out/root/usr/local/bin/gannet-worker | grep -o '/lib[^ ]*' | while read -r library; do \
      mkdir -p "/out/root/usr${library%/*}" && cp -L "$library" "/out/root/usr${library%/*}/"; done \
    && for folder in /out/root/usr/lib*; do ln -s "usr/${folder##*/}" "/out/root/${folder##*/}"; done \
    && cp /etc/ssl/certs/ca-certificates.crt /out/root/etc/ssl/certs/

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gannet-worker" \
      org.opencontainers.image.description="Takes deep learning jobs from RabbitMQ, computes them, commits results to S3." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gannet/gannet" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/root/ /
# The only folder the worker writes to, besides /tmp: the rest may be read-only. A volume here keeps the cache, and
# workers that share it download each file once a host.
COPY --from=build --chown=65532:65532 /out/cache /cache
# Where it answers /metrics, /healthz and /readyz.
ENV GANNET_CACHE=/cache GANNET_METRICS=0.0.0.0:9464
EXPOSE 9464
USER 65532:65532
WORKDIR /cache
# SIGTERM makes running trials write a checkpoint and hand it on.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/gannet-worker", "--health"]
ENTRYPOINT ["/usr/local/bin/gannet-worker"]
