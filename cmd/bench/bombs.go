package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

const (
	bombClients = 8 // of the hostile account
	bombTurns   = 3
	bombTime    = 6 * time.Second // each turn, of every kind of request
)

// A kind is something that the other account does again and again.
type kind struct {
	what    string
	do      func(context.Context) error
	quiet   []time.Duration
	under   []time.Duration // beside a stranger: an account that signed up
	trusted []time.Duration // beside an account that the operator made, without a bound of its rates
}

// bombs measures what an account notices of another that pins, uploads and reads hostile DAGs without a pause.
// Those who send them take processors too: what a static handler of a process of its own suffers beside them is noted.
func (b *bench) bombs(ctx context.Context) error {
	nd, origins, err := b.provider(ctx, "bomber")
	if err != nil {
		return err
	}
	defer nd.Close()
	s, err := b.fresh(ctx, "bombs")
	if err != nil {
		return err
	}
	other, err := b.another(ctx, s, "another", auth.Trusted)
	if err != nil {
		return err
	}
	stranger, err := b.another(ctx, s, "stranger", auth.Public)
	if err != nil {
		return err
	}
	kinds, err := other.everydayUse(ctx, nd.Blockstore, origins)
	if err != nil {
		return err
	}
	floor, err := b.static(ctx, "")
	if err != nil {
		return err
	}
	static := &kind{what: "GET of a static handler", do: func(ctx context.Context) error {
		_, err := floor.do(ctx, http.MethodGet, fmt.Sprint("/pins/", pinAnswer), nil, nil)
		return err
	}}
	kinds = append(kinds, static)
	bombs, err := newBombs()
	if err != nil {
		return err
	}
	for _, d := range bombs.list {
		for _, block := range d.Blocks[:min(len(d.Blocks), 3000)] {
			_ = nd.Blockstore.Put(ctx, block) // some are such that no node takes them
		}
	}
	stretch := bombTime / time.Duration(b.scale)
	for range bombTurns {
		if err := each(ctx, kinds, stretch, func(k *kind) *[]time.Duration { return &k.quiet }); err != nil {
			return err
		}
		for _, beside := range []struct {
			from *service
			into func(*kind) *[]time.Duration
		}{
			{stranger, func(k *kind) *[]time.Duration { return &k.under }},
			{s, func(k *kind) *[]time.Duration { return &k.trusted }},
		} {
			hostile, stop := context.WithCancel(ctx)
			var attack sync.WaitGroup
			for i := range bombClients {
				attack.Go(func() { bombs.send(hostile, beside.from, origins, i) })
			}
			err := each(ctx, kinds, stretch, beside.into)
			stop()
			attack.Wait()
			if err != nil {
				return err
			}
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
		}
	}
	// Whoever sends them takes the processors of this machine too, which shows in the slowest requests of every process: these
	// are judged by how much slower those of the static handler become.
	times := func(k *kind, into []time.Duration) float64 { return quantile(into, 0.95) / quantile(k.quiet, 0.95) }
	for _, k := range kinds {
		fast := fmt.Sprintf("%s beside hostile DAGs of a stranger (p50)", k.what)
		slow := fmt.Sprintf("%s beside hostile DAGs of a stranger (p95)", k.what)
		const trusted = "  of a trusted account, who has no rates"
		if k == static {
			noted(fast, "ms", quantile(k.under, 0.5), quantile(k.quiet, 0.5))
		} else {
			ratio(fast, "ms", quantile(k.under, 0.5), quantile(k.quiet, 0.5), atMost(1.5))
		}
		noted(trusted, "ms", quantile(k.trusted, 0.5), quantile(k.quiet, 0.5))
		noted(slow, "ms", quantile(k.under, 0.95), quantile(k.quiet, 0.95))
		noted(trusted, "ms", quantile(k.trusted, 0.95), quantile(k.quiet, 0.95))
		if k != static {
			ratio("  slower than quietly, and the static handler is", "times", times(k, k.under), times(static, static.under), atMost(1.5))
		}
	}
	memory, err := rssMB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	absolute("memory of the server after them", "MB", memory, atMost(1500))
	return errors.Join(s.stop(), floor.stop())
}

// each does each kind for a while, one after the other, and notes how long each time takes.
func each(ctx context.Context, kinds []*kind, d time.Duration, into func(*kind) *[]time.Duration) error {
	for _, k := range kinds {
		for began := time.Now(); time.Since(began) < d; {
			at := time.Now()
			if err := k.do(ctx); err != nil {
				return fmt.Errorf("%s: %w", k.what, err)
			}
			took := into(k)
			*took = append(*took, time.Since(at))
			if err := pause(ctx, 5*time.Millisecond); err != nil { // a person, not a load
				return err
			}
		}
	}
	return nil
}

// everydayUse is what the account does that is measured.
func (s *service) everydayUse(ctx context.Context, store blockstore.Blockstore, origins []string) ([]*kind, error) {
	content := make([]byte, 1<<20)
	if _, err := io.ReadFull(pseudoRandom(9), content); err != nil {
		return nil, err
	}
	var made struct{ Pins []spec.PinStatus }
	if err := s.upload(ctx, "application/octet-stream", content, &made); err != nil {
		return nil, err
	}
	pinned := made.Pins[0]
	n := 0
	return []*kind{
		{what: "GET of a pin", do: func(ctx context.Context) error {
			_, err := s.do(ctx, http.MethodGet, "/pins/"+pinned.Requestid, nil, nil)
			return err
		}},
		{what: "1 MiB read", do: func(ctx context.Context) error {
			return readOnce(ctx, s.http, s.origin(), reading{size: 1 << 20, path: func(int64) string { return "/ipfs/" + pinned.Pin.Cid }}, 0)
		}},
		{what: "POST until pinned", do: func(ctx context.Context) error {
			n++
			block := pinstest.Raw(fmt.Sprint("everyday ", n))
			if err := store.Put(ctx, block); err != nil {
				return err
			}
			p, err := s.pin(ctx, spec.Pin{Cid: block.Cid().String(), Origins: &origins})
			for err == nil && p.Status != spec.Pinned {
				if p.Status == spec.Failed {
					return fmt.Errorf("the pin failed: %v", p.Info)
				}
				if err = pause(ctx, 2*time.Millisecond); err == nil {
					_, err = s.do(ctx, http.MethodGet, "/pins/"+p.Requestid, nil, &p)
				}
			}
			return err
		}},
	}, nil
}

// upload sends a body to be pinned and decodes the answer into out unless that is nil.
func (s *service) upload(ctx context.Context, kind string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.origin()+"/api/v1/upload", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	_, err = s.send(req, out)
	return err
}

// bombs are hostile DAGs, and CARs of them.
type bombs struct {
	list []pinstest.Hostile
	cars [][]byte
}

func newBombs() (*bombs, error) {
	b := &bombs{list: pinstest.Hostiles()}
	for _, d := range b.list {
		var car bytes.Buffer
		if err := writeCAR(&car, d.DAG); err != nil {
			return nil, err
		}
		b.cars = append(b.cars, car.Bytes())
	}
	return b, nil
}

func writeCAR(w io.Writer, d pinstest.DAG) error {
	out, err := storage.NewWritable(w, []cid.Cid{d.Root}, car.WriteAsCarV1(true), car.AllowDuplicatePuts(true))
	if err != nil {
		return err
	}
	for _, block := range d.Blocks {
		if err := out.Put(context.Background(), block.Cid().KeyString(), block.RawData()); err != nil {
			return err
		}
	}
	return nil
}

// send pins, uploads and reads hostile DAGs until ctx ends. What comes of it is not looked at.
func (b *bombs) send(ctx context.Context, s *service, origins []string, from int) {
	const most = 4 << 20 // that is read of one answer
	for i := from; ctx.Err() == nil; i++ {
		d := b.list[i%len(b.list)]
		_, _ = s.pin(ctx, spec.Pin{Cid: d.Root.String(), Origins: &origins})
		_ = s.upload(ctx, "application/vnd.ipld.car", b.cars[i%len(b.list)], nil)
		for _, query := range []string{"", "?format=car", "?format=tar", "?format=car&car-dups=y"} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.origin()+"/ipfs/"+d.Root.String()+query, nil)
			if err != nil {
				return
			}
			res, err := s.http.Do(req)
			if err != nil {
				continue // cut short, or ctx has ended
			}
			_, err = io.Copy(io.Discard, io.LimitReader(res.Body, most))
			_ = errors.Join(err, res.Body.Close())
		}
	}
}
