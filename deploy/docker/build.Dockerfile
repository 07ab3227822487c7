# Compiles the program, statically linked, without Rust on this machine, and writes it to deploy/docker:
#
#   docker build --file deploy/docker/build.Dockerfile --output deploy/docker .
#
# To state the commit in `tollhouse --version`, add --build-arg TOLLHOUSE_COMMIT=$(git rev-parse HEAD).
FROM rust:1-alpine AS build
RUN apk add --no-cache gcc musl-dev
WORKDIR /source
COPY . .
ARG TOLLHOUSE_COMMIT
ARG SOURCE_DATE_EPOCH
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/source/target \
    cargo build --release --locked && cp target/release/tollhouse /tollhouse

FROM scratch
COPY --from=build /tollhouse /tollhouse
