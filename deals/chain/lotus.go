package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"

	"github.com/frostpin/frostpin/deals"
)

// A Lotus is a Filecoin node with a wallet. It connects by itself, again whenever it has to, and is ready for use at
// once: until a node has been found good, methods return errors that wrap deals.ErrChain.
type Lotus struct {
	cfg   Config
	log   *slog.Logger
	slots chan struct{}
	calls atomic.Int64

	stop    context.CancelFunc
	stopped chan struct{}

	mu      sync.Mutex
	sess    *session // to a node that has passed the checks; nil: none, and why says why
	why     error
	settled chan struct{} // closed once the first try to connect has come to something
	moved   chan struct{} // closed, and made anew, at each new head and connection
	head    *types.TipSet // of sess
	genesis types.TipSetKey
	final   tip // the highest that was found final

	memo    memo
	ids     sync.Map // address.Address to its ID address, for what a final tipset knows
	tree    *tree
	noTree  sync.Once // says once that the state tree cannot be read
	noEvent sync.Once // says once that there are no events
	refused sync.Once // says once that there are none of some heights
}

var _ deals.Chain = (*Lotus)(nil)

// A tip is a tipset by what is needed of it.
type tip struct {
	Key    types.TipSetKey
	Height deals.Epoch
}

func tipOf(ts *types.TipSet) tip { return tip{Key: ts.Key(), Height: ts.Height()} }

// Open begins to connect. An error is one of cfg: a node that is away is none. ctx bounds the whole use; Close ends it
// earlier.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Lotus, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("reading the settings of the Filecoin node: %w", err)
	}
	l := &Lotus{
		cfg:     cfg,
		log:     log,
		slots:   make(chan struct{}, cfg.Calls),
		stopped: make(chan struct{}),
		settled: make(chan struct{}),
		moved:   make(chan struct{}),
		why:     errors.New("no connection yet"),
	}
	if l.tree, err = newTree(); err != nil {
		return nil, err
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.run(ctx)
	return l, nil
}

// Close hangs up and returns when nothing runs any more.
func (l *Lotus) Close() {
	l.stop()
	<-l.stopped
}

// Calls is the number of requests sent so far.
func (l *Lotus) Calls() int64 { return l.calls.Load() }

// Follow calls seen after each new head and each connection, merged, until ctx ends.
func (l *Lotus) Follow(ctx context.Context, seen func()) {
	for {
		l.mu.Lock()
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
			seen()
		case <-ctx.Done():
			return
		}
	}
}

// run connects until ctx ends, ever more slowly while that comes to nothing.
func (l *Lotus) run(ctx context.Context) {
	defer close(l.stopped)
	wait := l.cfg.RetryFirst
	for ctx.Err() == nil {
		good, err := l.serve(ctx)
		if ctx.Err() != nil {
			err = errHungUp
		}
		l.lose(err)
		if good {
			wait = l.cfg.RetryFirst
		}
		// A node that restarts is met by all its clients: they should not all come in the same moment.
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1)) //nolint:gosec // jitter, no secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, l.cfg.RetryMax)
	}
}

// lose notes that there is no node, and why.
func (l *Lotus) lose(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sess != nil || l.why == nil || l.why.Error() != why.Error() {
		l.log.Warn("the Filecoin node is not usable", "err", why)
	}
	l.sess, l.why, l.head = nil, why, nil
	l.settle()
}

func (l *Lotus) settle() {
	select {
	case <-l.settled:
	default:
		close(l.settled)
	}
}

// serve is one connection, from dialling to its end. good tells whether the node was found good.
func (l *Lotus) serve(ctx context.Context) (good bool, err error) {
	s, hangUp, err := dial(ctx, l.cfg, l.slots, &l.calls)
	if err != nil {
		return false, err
	}
	defer hangUp()

	changes, err := subscribe(s)
	if err != nil {
		return false, err
	}
	head, err := first(s, changes)
	if err != nil {
		return false, err
	}
	if err := l.check(s, head); err != nil {
		return false, err
	}
	l.accept(s, head)
	quiet := time.NewTimer(l.cfg.Quiet)
	defer quiet.Stop()
	for {
		select {
		case batch, ok := <-changes:
			if !ok {
				return true, errors.New("the connection was lost")
			}
			if err := l.move(s, batch); err != nil {
				return true, err
			}
			quiet.Reset(l.cfg.Quiet)
		case <-quiet.C:
			if err := l.nudge(s); err != nil {
				return true, err
			}
			quiet.Reset(l.cfg.Quiet)
		case <-s.ctx.Done():
			return true, s.ended()
		}
	}
}

// subscribe asks for the heads. The channel ends with the connection.
func subscribe(s *session) (<-chan []*api.HeadChange, error) {
	// Not through call: its context would end the subscription with the call.
	s.calls.Add(1)
	type answer struct {
		changes <-chan []*api.HeadChange
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		changes, err := s.node.ChainNotify(s.ctx)
		answers <- answer{changes, err}
	}()
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, fmt.Errorf("asking the node for ChainNotify: %w", a.err)
		}
		return a.changes, nil
	case <-timer.C:
		return nil, fmt.Errorf("asking the node for ChainNotify: no answer within %s", s.timeout)
	case <-s.ctx.Done():
		return nil, s.lost("ChainNotify")
	}
}

// first is the head with which a subscription begins.
func first(s *session, changes <-chan []*api.HeadChange) (*types.TipSet, error) {
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	for {
		select {
		case batch, ok := <-changes:
			if !ok {
				return nil, errors.New("the connection was lost before the node told its head")
			}
			for _, c := range batch {
				if c != nil && c.Val != nil {
					return c.Val, nil
				}
			}
		case <-timer.C:
			return nil, fmt.Errorf("the node did not tell its head within %s", s.timeout)
		case <-s.ctx.Done():
			return nil, s.lost("ChainNotify")
		}
	}
}

// check makes sure that a new connection is to the right node.
func (l *Lotus) check(s *session, head *types.TipSet) error {
	name, err := call(s.ctx, s, "StateNetworkName", func(ctx context.Context, n *node) (*string, error) { return n.StateNetworkName(ctx) })
	if err != nil {
		return err
	}
	if *name != l.cfg.Network {
		return fmt.Errorf("the node is on network %q, not on %q", *name, l.cfg.Network)
	}
	genesis, err := call(s.ctx, s, "ChainGetGenesis", func(ctx context.Context, n *node) (*types.TipSet, error) { return n.ChainGetGenesis(ctx) })
	if err != nil {
		return err
	}
	l.mu.Lock()
	known, final := l.genesis, l.final
	l.mu.Unlock()
	if !known.IsEmpty() && known != genesis.Key() {
		return errors.New("the node is on another chain than before: its genesis differs")
	}
	if err := l.probe(s); err != nil {
		return err
	}
	// A node that still catches up is told by ready; what it has so far must be ours.
	if final.Height > 0 && head.Height() >= final.Height {
		if err := ancestor(s.ctx, s, final, tipOf(head)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.genesis = genesis.Key()
	l.mu.Unlock()
	return nil
}

// probeText is what the wallet signs to show that it can. It cannot be taken for a message, a proposal or a uuid.
const probeText = "frostpin: does this node hold the key that signs?"

// probe makes sure that the node holds the key and lets us use it. WalletHas would need a stronger permission and say
// less.
func (l *Lotus) probe(s *session) error {
	text := []byte(probeText)
	sig, err := sign(s.ctx, s, l.cfg.Wallet, text)
	if err != nil {
		return fmt.Errorf("trying wallet %s: %w", l.cfg.Wallet, err)
	}
	good, err := verify(s.ctx, s, l.cfg.Wallet, text, *sig)
	if err != nil {
		return fmt.Errorf("trying wallet %s: %w", l.cfg.Wallet, err)
	}
	if !good {
		return fmt.Errorf("trying wallet %s: the node signs with another key", l.cfg.Wallet)
	}
	return nil
}

// accept puts a checked connection to use.
func (l *Lotus) accept(s *session, head *types.TipSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sess, l.why, l.head = s, nil, head
	l.settle()
	l.wake()
	l.log.Info("connected to the Filecoin node", "network", l.cfg.Network, "head", int64(head.Height()))
}

// wake tells followers. The caller holds mu.
func (l *Lotus) wake() {
	close(l.moved)
	l.moved = make(chan struct{})
}

// move takes in what has happened to the head.
func (l *Lotus) move(s *session, batch []*api.HeadChange) error {
	var head *types.TipSet
	for _, c := range batch {
		if c == nil || c.Val == nil {
			continue
		}
		if head = c.Val; c.Type == "revert" {
			head = nil
		}
	}
	if head == nil {
		// Reverts alone leave a head that was not named.
		var err error
		if head, err = chainHead(s); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = head
	l.wake()
	return nil
}

// nudge looks whether a quiet subscription still works: nodes are known to let one freeze while all else goes on.
func (l *Lotus) nudge(s *session) error {
	head, err := chainHead(s)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if head.Key() != l.head.Key() {
		return errors.New("the node no longer tells its heads")
	}
	return nil
}

func chainHead(s *session) (*types.TipSet, error) {
	return call(s.ctx, s, "ChainHead", func(ctx context.Context, n *node) (*types.TipSet, error) { return n.ChainHead(ctx) })
}
