# syntax=docker/dockerfile:1
# The worker's image. From the repository's root:
#
#   docker build -f infra/worker.Dockerfile -t gannet-worker .

ARG RUST_IMAGE=rust:1.95-slim-bookworm
# Needs glibc as new as the build's and nothing else: no command of it is run, so a distroless image does too.
ARG RUNTIME_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
WORKDIR /src
# The image is the toolchain: rust-toolchain.toml would make rustup fetch what only developers need.
ENV CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never

# Dependencies first: this layer is built again only when a manifest or the lock file changes. Cargo wants every
# member of the workspace to have something to build.
COPY Cargo.toml Cargo.lock ./
COPY shared/Cargo.toml shared/
COPY worker/Cargo.toml worker/
COPY producer/Cargo.toml producer/
COPY tests/Cargo.toml tests/
RUN for member in shared worker producer tests; do mkdir -p "$member/src" && touch "$member/src/lib.rs"; done \
    && for member in worker producer; do echo 'fn main() {}' > "$member/src/main.rs"; done \
    && cargo build --release --locked -p worker

COPY shared shared
COPY worker worker
# Cargo compares times: the files just copied may be older than the empty ones it has built.
RUN find shared worker -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p worker \
    && mkdir /out /out/cache \
    && cp target/release/gannet-worker /out/

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="gannet-worker" \
      org.opencontainers.image.description="Takes deep learning jobs from RabbitMQ, computes them, commits results to S3." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gannet/gannet" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Whom to trust when the broker or the store speak TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/gannet-worker /usr/local/bin/gannet-worker
# The only folder the worker writes to, besides /tmp: the rest may be read-only. A volume here keeps the cache, and
# workers that share it download each file once a host.
COPY --from=build --chown=65532:65532 /out/cache /cache
ENV GANNET_CACHE=/cache
USER 65532:65532
WORKDIR /cache
# SIGTERM makes running trials write a checkpoint and hand it on.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/gannet-worker"]
