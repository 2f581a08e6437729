# syntax=docker/dockerfile:1
# The gateway and the shared libraries that it loads, nothing else: no shell, no package manager, user 65532.
#   docker build -t tidegate:0.1.0 .
#   docker run --rm -p 8080:8080 --ulimit nofile=1048576:1048576 --read-only --cap-drop ALL \
#     --security-opt no-new-privileges --security-opt seccomp=tuning/seccomp/tidegate-io-uring.json tidegate:0.1.0
# Without the seccomp option it runs on epoll: container runtimes refuse io_uring by default.

# Pin the digest too where builds must be the same to the byte.
ARG RUST=1.95.0
FROM rust:${RUST}-slim-bookworm AS build
WORKDIR /src
# Paths of the build machine do not get into the binary; panics still name files below the crate.
ENV RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo -C strip=debuginfo" \
    CARGO_INCREMENTAL=0
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates make && rm -rf /var/lib/apt/lists/*
COPY . .
# --locked: exactly the versions of Cargo.lock, or no build.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin tidegate && cp target/release/tidegate /tidegate
# The same script assembles the file system that tests/deploy starts without a container engine.
RUN scripts/rootfs.sh --binary /tidegate --out /rootfs

FROM scratch
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="WebSocket gateway: rooms across nodes" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /rootfs /
USER 65532:65532
# Inside a container loopback is nobody: clients come by the container's address. The admin port stays on loopback until the
# configuration says otherwise.
ENV TIDEGATE_LISTEN=0.0.0.0:8080
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tidegate"]
CMD ["serve"]
