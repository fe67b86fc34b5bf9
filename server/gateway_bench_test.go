package server_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/gateway"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/frostpin/frostpin/spec"
)

// Hot reads beside boxo's own gateway over the same blocks, both on sockets. The work is the same, so the rest is ours:
// who may read, the tier, the guard.
func BenchmarkGateway(b *testing.B) {
	w := newWorld()
	w.fill(b)
	content := make([]byte, 64<<20)
	random := rand.NewChaCha8([32]byte{7})
	random.Read(content) //nolint:errcheck // it cannot fail
	small, middle, large := w.add(b, content[:1<<10]), w.add(b, content[:1<<20]), w.add(b, content)
	w.pinned[spec.Canonical(small)], w.pinned[spec.Canonical(middle)], w.pinned[spec.Canonical(large)] = 1, 1, 1

	backend, err := gateway.NewBlocksBackend(blockservice.New(w.hot, offline.Exchange(w.hot)))
	if err != nil {
		b.Fatal(err)
	}
	plain := gateway.NewHandler(gateway.Config{
		DeserializedResponses: true, NoDNSLink: true, RetrievalTimeout: gateway.DefaultRetrievalTimeout,
		MaxConcurrentRequests: gateway.DefaultMaxConcurrentRequests, MetricsRegistry: prometheus.NewRegistry(),
	}, backend)
	ours := quietReads(b, &reads{fixture: newFixture(b), world: w})

	for _, c := range []struct {
		name, target, ranges string
		size                 int64
	}{
		{"1KiB", small.String(), "", 1 << 10},
		{"1MiB", middle.String(), "", 1 << 20},
		{"64MiB", large.String(), "", 64 << 20},
		{"range", large.String(), "bytes=50000000-50000999", 1000},
		{"car", large.String() + "?format=car", "", 64 << 20},
	} {
		for _, h := range []struct {
			name    string
			handler http.Handler
		}{{"boxo", plain}, {"frostpin", ours}} {
			for _, clients := range []int{1, 16} {
				b.Run(fmt.Sprintf("%s/%d/%s", c.name, clients, h.name), func(b *testing.B) {
					s := httptest.NewServer(h.handler)
					defer s.Close()
					client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
					defer client.CloseIdleConnections()
					b.SetBytes(c.size)
					b.SetParallelism(clients)
					if clients == 1 {
						for b.Loop() {
							readOnce(b, client, s.URL+"/ipfs/"+c.target, c.ranges, c.size)
						}
						return
					}
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							readOnce(b, client, s.URL+"/ipfs/"+c.target, c.ranges, c.size)
						}
					})
				})
			}
		}
	}
}

func readOnce(b *testing.B, client *http.Client, url, ranges string, size int64, headers ...string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	if err != nil {
		b.Error(err)
		return
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		b.Error(err)
		return
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || n < size || res.StatusCode/100 != 2 {
		b.Errorf("%d, %d bytes, %v", res.StatusCode, n, err)
	}
}
