# Compiles the program, statically linked, without Rust on this machine, and writes it to deploy/docker:
#
#   docker build --file deploy/docker/build.Dockerfile --output deploy/docker .
FROM rust:1-alpine AS build
RUN apk add --no-cache gcc musl-dev
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked && cp target/release/tollhouse /tollhouse

FROM scratch
COPY --from=build /tollhouse /tollhouse
