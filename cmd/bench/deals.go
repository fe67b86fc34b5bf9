package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	market9 "github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
	"github.com/frostpin/frostpin/deals/mk12"
	"github.com/frostpin/frostpin/deals/piece"
	"github.com/frostpin/frostpin/pins/pinstest"
)

const (
	storedRoots    = 100_000
	settledOf      = 300 // one in so many deals is settled in each epoch, in the rounds that have something to read
	quietRounds    = 5
	busyRounds     = 10
	timedWishes    = 40
	roundPatience  = 2 * time.Minute
	proposalWithin = time.Minute
)

// deals measures following the deals of 100,000 roots, three each, all active: rounds in which nothing has happened,
// and such in which the state of some has changed; and how soon new roots are proposed meanwhile.
func (b *bench) deals(ctx context.Context) (err error) {
	roots := storedRoots / b.scale
	c, err := startCrowd(ctx, roots, filepath.Join(b.dir, "crowd"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	settled := roots * crowdCopies / settledOf
	fill := func(t *tracker) error { return t.fill(ctx, roots, c) }
	err = b.track(ctx, roots, c, fill, func(t *tracker) error {
		if err := t.started(ctx, "first round of a database"); err != nil {
			return err
		}
		return t.quiet(ctx)
	})
	if err != nil {
		return err
	}
	leave := func(*tracker) error { return nil }
	err = b.track(ctx, roots, c, leave, func(t *tracker) error {
		return t.started(ctx, "first round after a restart, without a change")
	})
	if err != nil {
		return err
	}
	change := func(*tracker) error { return c.settleOnce(ctx, settled) }
	return b.track(ctx, roots, c, change, func(t *tracker) error {
		if err := t.started(ctx, fmt.Sprintf("first round after a restart, with %d of them settled meanwhile", settled)); err != nil {
			return err
		}
		if err := c.settle(settled); err != nil {
			return err
		}
		return t.busy(ctx, settled)
	})
}

// track measures one life of the service, before which something is done.
func (b *bench) track(ctx context.Context, roots int, c *crowd, before, measure func(t *tracker) error) error {
	t, err := b.openTracker(ctx, roots, c)
	if err != nil {
		return err
	}
	if err := before(t); err != nil {
		return errors.Join(err, t.close())
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- t.service.Run(running) }()
	err = measure(t)
	stop()
	return errors.Join(err, <-done, t.close())
}

func (t *tracker) quiet(ctx context.Context) error {
	quiet, err := t.rounds(ctx, quietRounds, func(r round) bool { return r.same })
	if err != nil {
		return err
	}
	t.print(fmt.Sprintf("worst of %d rounds without a change", quietRounds), quiet)
	return nil
}

// started measures the first round of this process.
func (t *tracker) started(ctx context.Context, what string) error {
	r, err := t.rounds(ctx, 1, func(round) bool { return true })
	if err == nil {
		t.print(what, r)
	}
	return err
}

func (t *tracker) busy(ctx context.Context, settled int) error {
	busy, err := t.rounds(ctx, busyRounds, func(r round) bool { return !r.same })
	if err != nil {
		return err
	}
	t.print(fmt.Sprintf("worst of %d rounds with %d of them settled since the one before", busyRounds, settled), busy)
	if err := t.propose(ctx); err != nil {
		return err
	}
	return t.unharmed(ctx)
}

// A tracker is the service on its database and its node, with what is seen of it from outside.
type tracker struct {
	db      *database.DB
	lotus   *chain.Lotus
	closers []func() error
	service *deals.Service
	terms   deals.TermsID
	active  int // deals
	chain   *roundChain
	market  *toldMarket
}

func (t *tracker) close() error {
	var errs []error
	for i := range t.closers {
		errs = append(errs, t.closers[len(t.closers)-1-i]())
	}
	return errors.Join(errs...)
}

// openTracker makes the service, on the database of the one before. It does not run yet.
func (b *bench) openTracker(ctx context.Context, roots int, c *crowd) (t *tracker, err error) {
	t = &tracker{active: roots * crowdCopies}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if t.db, err = database.Open(ctx, filepath.Join(b.dir, "deals.db"), log); err != nil {
		return t, err
	}
	t.closers = append(t.closers, t.db.Close)
	if err := t.db.Migrate(ctx, deals.Migrations()...); err != nil {
		return t, err
	}
	t.lotus, err = chain.Open(ctx, chain.Config{URL: c.URL, Token: c.Token, Network: "devnet", Wallet: c.Wallet}, log)
	if err != nil {
		return t, err
	}
	t.closers = append(t.closers, func() error { t.lotus.Close(); return nil })
	h, err := mk12.NewHost(mk12.Config{AllowPrivate: true})
	if err != nil {
		return t, err
	}
	t.closers = append(t.closers, h.Close)
	layouts, err := piece.OpenStore(filepath.Join(b.dir, "layouts"), 0)
	if err != nil {
		return t, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return t, err
	}
	t.chain = &roundChain{Chain: t.lotus, node: c.cmd.Process.Pid, began: make(chan struct{}, 1), rounds: make(chan round, 1024)}
	t.market = &toldMarket{Market: mk12.New(h, mk12.Config{AllowPrivate: true}), roots: map[string]cid.Cid{}, told: make(chan proposal, 1024)}
	t.service, err = deals.New(trackerConfig("http://"+listener.Addr().String()+"/piece"), t.db, deals.Parts{
		Chain: t.chain, Market: t.market, Blocks: wishedBlocks(), Layouts: layouts,
	}, log, time.Now)
	if err != nil {
		return t, errors.Join(err, listener.Close())
	}
	pieces := &http.Server{Handler: servePieces(t.service), ReadHeaderTimeout: time.Minute}
	go func() { _ = pieces.Serve(listener) }()
	t.closers = append(t.closers, pieces.Close)
	t.terms, err = t.service.Record(ctx, deals.Terms{Replicas: crowdCopies, Days: crowdDays})
	return t, err
}

// fill records the providers, and the deals that there are with them.
func (t *tracker) fill(ctx context.Context, roots int, c *crowd) error {
	for _, p := range c.Providers {
		id, err := p.id()
		if err != nil {
			return err
		}
		if err := deals.NewRegistry(t.db, time.Now).Add(ctx, deals.Decision{ID: id, HTTP: p.HTTP}); err != nil {
			return err
		}
	}
	return fillCrowd(ctx, t.db, roots, t.terms, c)
}

// trackerConfig makes rounds follow each other as fast as tipsets: a server makes one in an hour.
func trackerConfig(pieces string) deals.Config {
	fil := fbig.NewInt(1e18)
	c := deals.Config{
		Policy:    deals.Defaults(),
		Caps:      deals.Caps{PerGiBEpoch: abi.NewTokenAmount(crowdPrice), PerDeal: fil, PerDay: fil, PerMonth: fil},
		Funding:   deals.Funding{Floor: fil, TopUp: fil, PerDay: fbig.Mul(fil, fbig.NewInt(10))},
		PublicURL: pieces, Secret: bytes.Repeat([]byte{1}, 32), Instance: "bench",
		Global: 1000, PerProvider: 1000, MaxPiece: 32 << 30, MaxReplicas: crowdCopies,
	}
	c.Policy.EpochTime, c.Policy.Poll, c.Policy.PollSlow = crowdEpoch, crowdEpoch, crowdEpoch/2
	return c
}

// A round is one comparison of all active deals with the chain. While it goes on, the process does its other work too,
// and that counts.
type round struct {
	same      bool // nothing has changed since the one before
	compared  int  // deals
	named     int  // of these, as not active
	took      time.Duration
	cpu, node float64 // s
	calls     int64
	err       error
}

// A roundChain measures rounds.
type roundChain struct {
	deals.Chain
	node   int // its process
	began  chan struct{}
	rounds chan round
}

func (c *roundChain) Changed(ctx context.Context, since deals.Snapshot, ids func(yield func(abi.DealID) bool), changed func(abi.DealID) error) (deals.Snapshot, error) {
	select {
	case c.began <- struct{}{}:
	default:
	}
	r := round{calls: -c.Calls()}
	own, err1 := cpu(os.Getpid())
	node, err2 := cpu(c.node)
	began := time.Now()
	snapshot, err := c.Chain.Changed(ctx, since, func(yield func(abi.DealID) bool) {
		ids(func(id abi.DealID) bool { r.compared++; return yield(id) })
	}, func(id abi.DealID) error { r.named++; return changed(id) })
	r.took, r.same = time.Since(began), err == nil && snapshot.State == since.State
	r.calls += c.Calls()
	ownAfter, err3 := cpu(os.Getpid())
	nodeAfter, err4 := cpu(c.node)
	r.cpu, r.node, r.err = ownAfter-own, nodeAfter-node, errors.Join(err, err1, err2, err3, err4)
	select {
	case c.rounds <- r:
	default: // nobody waits for so many
	}
	return snapshot, err
}

// rounds waits for so many of a kind, and returns the worst in each respect.
func (t *tracker) rounds(ctx context.Context, n int, kind func(round) bool) (worst round, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, roundPatience, errors.New("there are no rounds"))
	defer cancel()
	for n > 0 {
		var r round
		select {
		case r = <-t.chain.rounds:
		case <-ctx.Done():
			return worst, context.Cause(ctx)
		}
		if r.err != nil {
			return worst, r.err
		}
		if !kind(r) {
			continue
		}
		if r.named > 0 || !r.same && r.compared < t.active {
			return worst, fmt.Errorf("a round named %d of %d deals, and all %d are active", r.named, r.compared, t.active)
		}
		worst.took, worst.calls = max(worst.took, r.took), max(worst.calls, r.calls)
		worst.cpu, worst.node = max(worst.cpu, r.cpu), max(worst.node, r.node)
		n--
	}
	return worst, nil
}

// print shows a round: its processor time beside what the node has used meanwhile, and its calls.
func (t *tracker) print(what string, r round) {
	const goal = 2.0
	what = fmt.Sprintf("%s, %d active deals", what, t.active)
	fmt.Printf("| %s: CPU beside the node's, %.2f s in all | %.3g s | %.3g s | | <= %g s | %s |\n",
		what, r.took.Seconds(), r.cpu, r.node, goal, atMost(goal).verdict(r.cpu))
	absolute(fmt.Sprintf("%s: chain calls (%d)", what, r.calls), "per 100 deals", 100*float64(r.calls)/float64(t.active), atMost(1))
}

// A proposal is one that a provider has answered.
type proposal struct {
	root           cid.Cid
	left, answered time.Time
	answer         deals.Answer
}

// A toldMarket tells of proposals.
type toldMarket struct {
	deals.Market
	mu    sync.Mutex
	roots map[string]cid.Cid // by message
	told  chan proposal
}

func (m *toldMarket) Compose(id uuid.UUID, signed market9.ClientDealProposal, root cid.Cid, from deals.Transfer) ([]byte, error) {
	message, err := m.Market.Compose(id, signed, root, from)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roots[string(message)] = root
	return message, err
}

func (m *toldMarket) Propose(ctx context.Context, p deals.Contact, message []byte) (deals.Answer, error) {
	m.mu.Lock()
	told := proposal{root: m.roots[string(message)], left: time.Now()}
	m.mu.Unlock()
	answer, err := m.Market.Propose(ctx, p, message)
	if err == nil {
		told.answered, told.answer = time.Now(), answer
		m.told <- told
	}
	return answer, err
}

// propose measures from the moment at which a root is held to its first proposal, each beside a round that has just
// begun. The first is not counted: before it, escrow is moved and the providers are asked.
func (t *tracker) propose(ctx context.Context) error {
	var left, answered []time.Duration
	for i := range 1 + timedWishes {
		root := wishedBlock(i).Root
		if err := t.service.Want(ctx, false, deals.Wish{Root: root, Terms: t.terms}); err != nil {
			return err
		}
		select {
		case <-t.chain.began: // perhaps one that is over
		default:
		}
		select {
		case <-t.chain.began:
		case <-ctx.Done():
			return ctx.Err()
		}
		held := time.Now()
		if err := t.service.Held(ctx, root, true); err != nil {
			return err
		}
		p, err := t.firstProposal(ctx, root)
		if err != nil {
			return err
		}
		if i > 0 {
			left, answered = append(left, p.left.Sub(held)), append(answered, p.answered.Sub(held))
		}
	}
	absolute(fmt.Sprintf("first proposal of a new root after it is held, while rounds go on: sent (p50 of %d)", timedWishes), "ms", quantile(left, 0.5), atMost(2000))
	absolute("the same: sent (worst)", "ms", quantile(left, 1), atMost(2000))
	absolute("the same: answered by the provider (worst)", "ms", quantile(answered, 1), atMost(2000))
	return nil
}

func (t *tracker) firstProposal(ctx context.Context, root cid.Cid) (proposal, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, proposalWithin, fmt.Errorf("nothing was proposed for %s", root))
	defer cancel()
	for {
		select {
		case p := <-t.market.told:
			if p.root != root {
				continue // a further copy of one before
			}
			if !p.answer.Accepted {
				return p, fmt.Errorf("a provider refused a proposal: %s", p.answer.Text)
			}
			return p, nil
		case <-ctx.Done():
			return proposal{}, context.Cause(ctx)
		}
	}
}

// unharmed makes sure that what was measured has left the deals as they are: active, and without doubt.
func (t *tracker) unharmed(ctx context.Context) error {
	var n int
	err := t.db.Read(ctx, func(tx *gorm.DB) error {
		return tx.Raw(`SELECT count(*) FROM attempts WHERE id <= ? AND state = 'active' AND missing = 0`, t.active).Row().Scan(&n)
	})
	if err == nil && n != t.active {
		err = fmt.Errorf("of %d active deals %d are left", t.active, n)
	}
	return err
}

func wishedBlock(i int) pinstest.DAG { return pinstest.Leaf(fmt.Sprint("wished ", i)) }

// blocksInMemory is a hot tier.
type blocksInMemory map[cid.Cid][]byte

func (b blocksInMemory) Block(_ context.Context, c cid.Cid) ([]byte, error) {
	if data, ok := b[c]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("%s is not here", c)
}

func wishedBlocks() blocksInMemory {
	all := blocksInMemory{}
	for i := range 1 + timedWishes {
		for _, block := range wishedBlock(i).Blocks {
			all[block.Cid()] = block.RawData()
		}
	}
	return all
}

// servePieces is where providers get pieces.
func servePieces(s *deals.Service) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /piece/{cid}", func(w http.ResponseWriter, r *http.Request) {
		c, err := cid.Decode(r.PathValue("cid"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		file, err := s.OpenPiece(r.Context(), c, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		defer file.Close()
		w.Header().Set("ETag", `"`+file.ETag()+`"`)
		w.Header().Set("Content-Type", "application/vnd.ipld.car")
		http.ServeContent(w, r, "", time.Time{}, file)
	})
	return mux
}
