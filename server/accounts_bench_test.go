package server_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/server"
	"github.com/frostpin/frostpin/spec"
)

// What accounts cost: the same requests with real tokens, rates and metering, and with none of them. The pins are in a
// database, as they are when a server runs; the blocks that are read are not.
func BenchmarkAccounts(b *testing.B) {
	db := databasetest.Open(b)
	if err := db.Migrate(b.Context(), slices.Concat(auth.Migrations(), ledger.Migrations(), pins.Migrations())...); err != nil {
		b.Fatal(err)
	}
	accounts := auth.New(db, time.Now)
	limits := auth.Limits{Pins: 1000, Bytes: 1 << 40, Rates: map[auth.Kind]auth.Rate{}, Prices: map[string]string{"egress_hot_gib": "0.01"}}
	for _, kind := range auth.Kinds() {
		limits.Rates[kind] = auth.Rate{PerSecond: 1e6, Burst: 1e6}
	}
	if err := accounts.SetPlan(b.Context(), auth.Operator(), auth.Public, limits); err != nil {
		b.Fatal(err)
	}
	made, err := accounts.Register(b.Context(), auth.Operator(), "ann", auth.Public)
	if err != nil {
		b.Fatal(err)
	}
	egress := ledger.New(db, payers{accounts}, time.Now, discard()).Egress()

	w := newWorld()
	w.fill(b)
	content := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{7}).Read(content) //nolint:errcheck // it cannot fail
	small, large := w.add(b, content[:1<<10]), w.add(b, content)
	w.pinned[spec.Canonical(small)], w.pinned[spec.Canonical(large)] = 1, 1
	f := newFixture(b)
	service := pins.New(pins.Config{FindSlice: time.Second, Slots: 1, FindRoots: 1}, db, pinstest.NewTier(), discard(), time.Now)
	who, err := f.tokens.Authenticate(b.Context(), alice)
	if err != nil {
		b.Fatal(err)
	}
	ids := map[string]string{}
	for token, account := range map[string]pins.Account{alice: pins.Account(who.Account), made.Text.Reveal(): pins.Account(made.Account.ID)} {
		name := "a name"
		p, err := service.Add(b.Context(), account, spec.Request{CID: small.String(), Root: spec.Canonical(small), Name: &name}, pins.Decision{})
		if err != nil {
			b.Fatal(err)
		}
		ids[token] = string(p.ID)
	}

	with, err := server.New(server.Config{Gateway: &server.Gateway{
		Blocks: w, Roots: w, Access: server.AccessToken,
		Sent: func(account pins.Account, _ bool, bytes int64) { egress.Add(int64(account), ledger.EgressHot, bytes) },
	}}, service, accounts, discard())
	if err != nil {
		b.Fatal(err)
	}
	without, err := server.New(server.Config{Gateway: &server.Gateway{Blocks: w, Roots: w}}, service, f.tokens, discard())
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		size       int64
	}{
		{"status", "/psa/pins/", 100}, {"read1KiB", "/ipfs/" + small.String(), 1 << 10}, {"read1MiB", "/ipfs/" + large.String(), 1 << 20},
	} {
		for _, h := range []struct {
			name, token string
			handler     http.Handler
		}{{"without", alice, without}, {"with", made.Text.Reveal(), with}} {
			b.Run(fmt.Sprintf("%s/%s", c.name, h.name), func(b *testing.B) {
				s := httptest.NewServer(h.handler)
				defer s.Close()
				path := c.path
				if c.name == "status" {
					path += ids[h.token]
				}
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
				defer client.CloseIdleConnections()
				b.SetParallelism(8)
				before := processorTime(b)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						readOnce(b, client, s.URL+path, "", c.size, "Authorization", "Bearer "+h.token)
					}
				})
				b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op") // says more than the clock where others work too
			})
		}
	}
}

// processorTime is what this process has used of the processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
