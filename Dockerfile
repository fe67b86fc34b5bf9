FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -o /out/frostpin ./cmd/frostpin

FROM debian:bookworm-slim
RUN apt-get update \
	&& apt-get install -y --no-install-recommends ca-certificates \
	&& rm -rf /var/lib/apt/lists/* \
	&& useradd --system --home-dir /data --create-home frostpin
COPY --from=build /out/frostpin /usr/local/bin/frostpin
USER frostpin
VOLUME /data
# The API, and the IPFS node.
EXPOSE 7420 4001/tcp 4001/udp
ENV FROSTPIN_DATA_DIR=/data FROSTPIN_LISTEN=0.0.0.0:7420
ENTRYPOINT ["frostpin"]
CMD ["serve"]
