package sp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A Style is whose manners a provider has.
type Style string

const (
	Boost Style = "boost" // parallel ranges, honest status with the wallet's signature checked
	Curio Style = "curio" // one range at a time, a status that hides everything until sealed
)

// An Ask is what a provider wants.
type Ask struct {
	Price         abi.TokenAmount     `json:"price"`          // attoFIL per GiB and epoch
	VerifiedPrice abi.TokenAmount     `json:"verified_price"` // the same for verified deals
	MinPieceSize  abi.PaddedPieceSize `json:"min_piece_size"`
	MaxPieceSize  abi.PaddedPieceSize `json:"max_piece_size"`
}

// Config is one provider. Zero values of the fields marked so take the default in brackets.
type Config struct {
	Node          Node
	Miner, Worker address.Address
	Dir           string // everything it keeps; one provider per directory
	Style         Style  // [Boost]
	Region        string // shown, never used
	Ask           Ask    // [price 0, pieces of 128 B to 32 GiB]

	PublishDelay   abi.ChainEpoch  // epochs that a transferred deal waits for others to be published with
	SealDelay      abi.ChainEpoch  // epochs between having a deal id and proving the sector
	PreCommitDelay abi.ChainEpoch  // the chain's; a sector is not proven earlier [10]
	ExpectedSeal   abi.ChainEpoch  // a deal that starts earlier than this from now is not published [960]
	Confidence     abi.ChainEpoch  // epochs on top of a message before it is believed
	Escrow         abi.TokenAmount // attoFIL kept free for collateral [1 FIL]
	MaxInFlight    int             // deals before AddedPiece; beyond it proposals are refused [no bound]
	Clients        []address.Address

	Pull           PullConfig
	AllowPrivate   bool // also pull from private addresses; no real provider does
	RefuseLoopback bool // pull from public addresses only, as a real provider

	Faults Faults
	Seed   uint64 // of the faults' probabilities
	Log    *slog.Logger
	Now    func() time.Time // [time.Now]
}

func (c Config) withDefaults() (Config, error) {
	c.Style = cmp.Or(c.Style, Boost)
	c.PreCommitDelay = cmp.Or(c.PreCommitDelay, 10)
	c.ExpectedSeal = cmp.Or(c.ExpectedSeal, 960)
	c.Ask.MinPieceSize = cmp.Or(c.Ask.MinPieceSize, 128)
	c.Ask.MaxPieceSize = cmp.Or(c.Ask.MaxPieceSize, 32<<30)
	c.Pull = c.Pull.withDefaults(c.Style)
	if c.Ask.Price.Nil() {
		c.Ask.Price = abi.NewTokenAmount(0)
	}
	if c.Ask.VerifiedPrice.Nil() {
		c.Ask.VerifiedPrice = abi.NewTokenAmount(0)
	}
	if c.Escrow.Nil() {
		c.Escrow = abi.NewTokenAmount(1e18)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Node == nil || c.Dir == "" || c.Miner == address.Undef || c.Worker == address.Undef:
		return c, errors.New("a provider needs a node, a directory, a miner and a worker")
	case c.Style != Boost && c.Style != Curio:
		return c, fmt.Errorf("no style %q", c.Style)
	}
	return c, c.Faults.Validate()
}

// A Provider is one that runs, until Close.
type Provider struct {
	cfg    Config
	node   Node
	log    *slog.Logger
	faults *board
	net    *presence
	pieces *pieces
	chain  *chain

	ctx    context.Context // until Close: what SetFaults starts belongs to no caller
	cancel context.CancelFunc
	poked  chan struct{} // has one element while a pass is wanted
	work   sync.WaitGroup

	mu       sync.Mutex // guards what follows; deals are replaced, never changed
	ledger   *ledger
	pulling  map[uuid.UUID]*pull
	head     abi.ChainEpoch
	askSince abi.ChainEpoch
	askSeq   uint64
	changed  chan struct{} // closed and replaced whenever a deal changes
	closed   bool
}

// Start brings a provider up, with what its directory holds, and returns when it listens. What the chain must learn
// (peer id, addresses, collateral) follows with the epochs; see Settled.
func Start(ctx context.Context, cfg Config) (*Provider, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("starting a provider: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("starting provider %s: %w", cfg.Miner, err)
	}
	p := &Provider{
		cfg: cfg, node: cfg.Node, log: cfg.Log.With("provider", cfg.Miner.String()),
		faults: newBoard(cfg.Seed), poked: make(chan struct{}, 1),
		pulling: make(map[uuid.UUID]*pull), changed: make(chan struct{}), askSeq: 1,
	}
	p.faults.set(cfg.Faults)
	// What was begun goes on after the caller's context has ended: until Close.
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := p.open(ctx); err != nil {
		p.cancel()
		return nil, fmt.Errorf("starting provider %s: %w", cfg.Miner, err)
	}
	p.work.Go(func() { p.follow(p.ctx) })
	p.work.Go(func() { p.loop(p.ctx) })
	p.poke()
	return p, nil
}

func (p *Provider) open(ctx context.Context) error {
	head, err := p.node.ChainHead(ctx)
	if err != nil {
		return fmt.Errorf("asking for the head: %w", err)
	}
	p.head, p.askSince = head.Height(), head.Height()
	p.faults.setHeight(head.Height())
	if p.ledger, err = openLedger(filepath.Join(p.cfg.Dir, "deals.jsonl")); err != nil {
		return err
	}
	if p.pieces, err = openPieces(filepath.Join(p.cfg.Dir, "pieces")); err != nil {
		p.ledger.journal.close()
		return err
	}
	p.chain = newChain(p)
	if err := p.sweep(); err != nil {
		p.ledger.journal.close()
		return err
	}
	for _, d := range p.ledger.all() {
		if d.served() {
			if err := p.pieces.serve(d.proposal().PieceCID); err != nil {
				p.log.Warn("a piece is served no longer", "deal", d.UUID.String(), "err", err)
			}
		}
	}
	if p.net, err = newPresence(ctx, p); err != nil {
		p.ledger.journal.close()
		return err
	}
	return nil
}

// sweep removes what a crash has kept from being removed.
func (p *Provider) sweep() error {
	needed := make(map[string]bool)
	for _, d := range p.ledger.all() {
		if !d.Stage.final() {
			needed[d.UUID.String()] = true
			needed[d.proposal().PieceCID.String()] = true
		}
	}
	return p.pieces.sweep(func(owner string) bool { return needed[owner] })
}

// Close stops everything and returns when it has stopped. The directory can be started again.
func (p *Provider) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.net.close()
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledger.journal.close()
	return nil
}

// Miner is the provider's actor.
func (p *Provider) Miner() address.Address { return p.cfg.Miner }

// Region is what Config said.
func (p *Provider) Region() string { return p.cfg.Region }

// AddrInfo is where the provider listens for libp2p, whatever the chain says.
func (p *Provider) AddrInfo() peer.AddrInfo { return p.net.info() }

// HTTPURL is the base of its retrieval routes, such as http://127.0.0.1:1234.
func (p *Provider) HTTPURL() string { return p.net.url() }

// Faults returns the switches that are on.
func (p *Provider) Faults() Faults { return p.faults.get() }

// SetFaults replaces all switches and forgets what they counted.
func (p *Provider) SetFaults(faults Faults) error {
	if err := faults.Validate(); err != nil {
		return err
	}
	p.faults.set(faults)
	p.net.adjust(p.ctx)
	p.announce()
	p.poke()
	return nil
}

// SetAsk changes the ask.
func (p *Provider) SetAsk(ask Ask) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg.Ask = ask
	p.askSince = p.head
	p.askSeq++
}

// Deals returns what the provider knows of every deal, in the order of acceptance. The deals must not be changed.
func (p *Provider) Deals() []*Deal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ledger.all()
}

// Changed returns a channel that is closed at the next change of a deal or of the faults.
func (p *Provider) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Settled tells whether the chain shows the provider's peer id and addresses and holds its collateral.
func (p *Provider) Settled() bool { return p.chain.settled.Load() }

func (p *Provider) deal(id uuid.UUID) *Deal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ledger.byID[id]
}

// inFlight counts deals that are not in a sector yet.
func (p *Provider) inFlight() int {
	n := 0
	for _, d := range p.Deals() {
		switch d.Stage {
		case Accepted, Transferred, Published, PublishConfirmed:
			n++
		case AddedPiece, Sealed, Complete, Failed, Ended:
		}
	}
	return n
}

// update changes deals durably and together.
func (p *Provider) update(change func(*Deal), ids ...uuid.UUID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make([]*Deal, len(ids))
	for i, id := range ids {
		copied := *p.ledger.byID[id]
		stage := copied.Stage
		change(&copied)
		if copied.Stage != stage {
			copied.Since = p.head
			p.log.Info("a deal moved on", "deal", id.String(), "stage", string(copied.Stage), "err", copied.Error)
		}
		next[i] = &copied
	}
	if err := p.ledger.put(next...); err != nil {
		return err
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// announce wakes those who wait for a change that was none of a deal's.
func (p *Provider) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// fail ends a deal with a reason.
func (p *Provider) fail(d *Deal, format string, args ...any) error {
	if err := p.update(func(d *Deal) { d.Stage, d.Error = Failed, fmt.Sprintf(format, args...) }, d.UUID); err != nil {
		return err
	}
	p.release(d)
	return nil
}

// release removes the bytes of a deal unless another one needs them.
func (p *Provider) release(d *Deal) {
	piece := d.proposal().PieceCID
	for _, other := range p.Deals() {
		if !other.Stage.final() && other.UUID != d.UUID && other.proposal().PieceCID.Equals(piece) {
			p.pieces.removeParts(d.UUID)
			return
		}
	}
	p.pieces.removeParts(d.UUID)
	p.pieces.remove(piece)
}

func (p *Provider) height() abi.ChainEpoch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.head
}

// poke asks for a pass; several pokes are one.
func (p *Provider) poke() {
	select {
	case p.poked <- struct{}{}:
	default:
	}
}

// orDefault is a fault's parameter or what it is without one.
func orDefault[T comparable](v, def T) T { return cmp.Or(v, def) }

// wait returns early, with its error, if the context ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
