package retrieval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A got is a verified block and who sent it.
type got struct {
	data     []byte
	provider string
}

// ipfs is the name of the IPFS network where providers are named.
const ipfs = "ipfs"

// inFlight is how many are asked for one block at once.
const inFlight = 3

// fetch gets a block from afar: out of a transfer of its DAG that is under way, or by itself. Readers that want the same
// block share one fetch.
func (s *Service) fetch(ctx context.Context, root, c cid.Cid) (got, error) {
	if g, ok := s.refill(c); ok {
		return g, nil
	}
	if j, all := s.running(ctx, root); j != nil {
		left := j.going
		if !all {
			left = j.passing()
		}
		if g, ok := j.wait(ctx, c, left); ok {
			return g, nil
		}
		if ctx.Err() != nil {
			return got{}, context.Cause(ctx)
		}
	}
	result := s.flight.DoChan(root.KeyString()+c.KeyString(), func() (any, error) {
		// Whoever asked first may leave; the others still wait.
		inner, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.FetchTime)
		defer cancel()
		if g, ok := s.arrived(inner, c); ok {
			return g, nil
		}
		g, err := s.fetchOnce(inner, root, c)
		if err != nil {
			return got{}, err
		}
		s.putBack(inner, c, g)
		return g, nil
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return got{}, r.Err
		}
		return r.Val.(got), nil //nolint:errcheck,forcetypeassert // it is what the function above returns
	case <-ctx.Done():
		return got{}, context.Cause(ctx)
	}
}

// arrived looks whether a block has come since its reader found it missing: a transfer or another reader's fetch may have
// ended in between, and what it has brought is not asked for again.
func (s *Service) arrived(ctx context.Context, c cid.Cid) (got, bool) {
	if g, ok := s.refill(c); ok {
		return g, true
	}
	ctx, cancel := context.WithTimeout(ctx, min(s.cfg.HotTime, arrivedTime))
	defer cancel()
	data, err := s.parts.Store.Block(ctx, c)
	return got{data, TierHot}, err == nil
}

// arrivedTime is short: the store has just answered, or is away.
const arrivedTime = 500 * time.Millisecond

// refillsMost is how many fetched blocks wait at once to be stored hot.
const refillsMost = 64

// putBack stores a block hot, beside those who read it: a store may be collected for minutes. A store that takes nothing
// for so long that too many wait, or that is away, costs the next reader another fetch, nothing else.
func (s *Service) putBack(ctx context.Context, c cid.Cid, g got) {
	c = canonical(c)
	key := c.KeyString()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, waits := s.refills[key]; waits || len(s.refills) >= refillsMost {
		return
	}
	s.refills[key] = g
	go func() {
		err := safely(func() error {
			b, err := blocks.NewBlockWithCid(g.data, c)
			if err != nil {
				return err
			}
			return s.put(context.WithoutCancel(ctx), []blocks.Block{b})
		})
		s.mu.Lock()
		delete(s.refills, key)
		s.mu.Unlock()
		if err != nil {
			s.log.Debug("storing a block that was fetched", "cid", c, "err", err)
		}
	}()
}

// refill returns a block that was fetched and is still being stored.
func (s *Service) refill(c cid.Cid) (got, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.refills[canonical(c).KeyString()]
	return g, ok
}

// An attempt is what came of asking one provider.
type attempt struct {
	got
	err error
}

// fetchOnce asks those who should have the block, then strangers, then for the whole DAG where it is only to be had as
// bytes of a piece.
func (s *Service) fetchOnce(ctx context.Context, root, c cid.Cid) (got, error) {
	sources, err := s.holders(ctx, root)
	if err != nil {
		return got{}, fmt.Errorf("looking for copies of %s: %w", root, err)
	}
	worst := verdict{}
	if g, ok := s.race(ctx, c, sources, &worst); ok {
		return g, nil
	}
	if strangers := s.strangers(ctx, c); len(strangers) > 0 {
		if g, ok := s.race(ctx, c, strangers, &worst); ok {
			return g, nil
		}
	}
	if hasPiece(sources) && ctx.Err() == nil {
		if g, ok := s.fromPiece(ctx, root, c); ok {
			return g, nil
		}
	}
	if len(sources) == 0 && worst.class == "" {
		worst.add(failure{class: Absent, err: ErrNoSource})
	}
	return got{}, worst.failed(ctx, c)
}

// race asks one after the other, the next when one has failed or is slow, and the network beside them.
func (s *Service) race(ctx context.Context, c cid.Cid, sources []Source, worst *verdict) (got, bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, len(sources)+1)
	running, next := 0, 0
	launch := func() {
		from := sources[next]
		next++
		running++
		go func() {
			a := attempt{got: got{provider: from.Provider}}
			a.err = safely(func() error {
				b, err := s.block(ctx, from, c)
				if err == nil {
					a.data = b.RawData()
				}
				return err
			})
			results <- a
		}()
	}
	network := s.parts.Network != nil
	hedge := time.NewTimer(s.cfg.Hedge)
	defer hedge.Stop()
	if len(sources) > 0 {
		launch()
	}
	for {
		if running == 0 && next < len(sources) {
			launch()
		}
		if running == 0 && network || network && next >= len(sources) {
			network = false
			running++
			go func() { results <- s.fromNetwork(ctx, c) }()
		}
		if running == 0 {
			return got{}, false
		}
		select {
		case a := <-results:
			running--
			if a.err == nil {
				return a.got, true
			}
			if ctx.Err() != nil {
				continue // it was called back
			}
			if a.provider == ipfs {
				worst.add(failure{class: Absent, err: a.err})
				continue
			}
			worst.add(s.note(a.provider, a.err))
			if next < len(sources) && running < inFlight {
				launch()
			}
		case <-hedge.C:
			if next < len(sources) && running < inFlight {
				launch()
				hedge.Reset(s.cfg.Hedge)
			} else if network {
				network = false
				running++
				go func() { results <- s.fromNetwork(ctx, c) }()
			}
		case <-ctx.Done():
			worst.add(failure{class: Slow, err: context.Cause(ctx)})
			return got{}, false
		}
	}
}

// networkTime bounds a look on the network after all providers have failed: it never says no.
const networkTime = 10 * time.Second

func (s *Service) fromNetwork(ctx context.Context, c cid.Cid) attempt {
	ctx, cancel := context.WithTimeout(ctx, min(networkTime, s.cfg.FetchTime/2))
	defer cancel()
	var data []byte
	err := safely(func() (err error) {
		data, err = s.parts.Network.Fetch(ctx, c)
		if err == nil && !verified(c, data) {
			err = errors.New("the network's bytes are not the block")
		}
		return err
	})
	s.notePanic(err)
	if err == nil {
		s.meter.bytes.WithLabelValues(ipfs).Add(float64(len(data)))
	}
	return attempt{got{data, ipfs}, err}
}

func hasPiece(sources []Source) bool {
	for _, s := range sources {
		if s.Piece.Defined() && s.Length > 0 {
			return true
		}
	}
	return false
}

// fromPiece transfers the whole DAG and takes the block on its way.
func (s *Service) fromPiece(ctx context.Context, root, c cid.Cid) (got, bool) {
	j := s.begin(root, root, s.cfg.Budget, true)
	defer j.leave()
	return j.wait(ctx, c, nil) // there is no other way
}

// A verdict is the worst of several failures: the one that says most about what the reader can do.
type verdict struct {
	class  Class
	after  time.Duration
	causes []error
}

func (v *verdict) add(f failure) {
	rank := func(c Class) int {
		switch c {
		case Absent:
			return 1
		case Busy:
			return 2
		case Refused:
			return 3
		case Slow:
			return 4
		}
		return 0
	}
	if rank(f.class) > rank(v.class) {
		v.class = f.class
	}
	v.after = max(v.after, f.after)
	if len(v.causes) < 8 { // enough to know what is wrong
		v.causes = append(v.causes, f.err)
	}
}

func (v *verdict) failed(ctx context.Context, c cid.Cid) error {
	if v.class == "" {
		v.add(failure{class: Slow, err: context.Cause(ctx)})
	}
	return &FailedError{CID: c, Class: v.class, After: v.after, Cause: errors.Join(v.causes...)}
}

// fetchAlone gets one block for a transfer, which is not waited for. The providers but are not asked.
func (s *Service) fetchAlone(ctx context.Context, root, c cid.Cid, but []string) (got, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FetchTime)
	defer cancel()
	sources, err := s.holders(ctx, root)
	if err != nil {
		return got{}, fmt.Errorf("looking for copies of %s: %w", root, err)
	}
	sources = slices.DeleteFunc(sources, func(from Source) bool { return slices.Contains(but, from.Provider) })
	worst := verdict{}
	if g, ok := s.race(ctx, c, sources, &worst); ok {
		return g, nil
	}
	if g, ok := s.race(ctx, c, s.strangers(ctx, c), &worst); ok {
		return g, nil
	}
	return got{}, worst.failed(ctx, c)
}
