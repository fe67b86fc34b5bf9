package hot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/exchange/offline"
	pinner "github.com/ipfs/boxo/pinning/pinner"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/ipfs/kubo/core"
	"github.com/ipfs/kubo/core/node/libp2p"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

// walkers is how many blocks one Hold asks for at once. A bitswap session asks its peers for 64 at most (H5).
const walkers = 32

// stopTime bounds how long the node may take to stop.
const stopTime = 5 * time.Second

// Embedded is Kubo's own core in this process. OpenEmbedded makes one.
type Embedded struct {
	config  Config
	log     *slog.Logger
	repo    *repository
	node    *core.IpfsNode
	local   blockservice.BlockService // without a network
	holder  *hold.Holder
	imports hold.Imports
	flusher *flusher
	seen    *seen // nil where the store keeps no checksums
	life    *life
	policy  dialPolicy
	asking  askPace
	search  chan struct{} // one token for each search of the routing system that may run

	origins   origins
	delegates delegateCache
}

var _ pins.HotTier = (*Embedded)(nil)

// OpenEmbedded starts the node, and creates its repository where there is none. ctx bounds only the opening; the node
// lives until Close.
func OpenEmbedded(ctx context.Context, cfg Config) (*Embedded, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	type opened struct {
		tier *Embedded
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		tier, err := open(context.WithoutCancel(ctx), cfg)
		done <- opened{tier, err}
	}()
	select {
	case o := <-done:
		return o.tier, o.err
	case <-ctx.Done():
		go func() { // Kubo cannot be told to stop starting
			if o := <-done; o.tier != nil {
				if err := o.tier.Close(); err != nil {
					cfg.Log.Warn("could not stop a node whose start was given up", "err", err)
				}
			}
		}()
		return nil, context.Cause(ctx)
	}
}

func open(ctx context.Context, cfg Config) (*Embedded, error) {
	repo, err := openRepository(cfg)
	if err != nil {
		return nil, err
	}
	routing := libp2p.NilRouterOption
	if cfg.Network == Public {
		routing = libp2p.ConstructDefaultRouting(repo.config, libp2p.DHTOption)
	}
	node, err := core.NewNode(ctx, &core.BuildCfg{
		Online: true, Permanent: true, Repo: repo, Routing: routing, ShutdownTimeout: stopTime,
	})
	if err != nil {
		// A node that was built but did not start does not close its repository.
		return nil, errors.Join(fmt.Errorf("starting the node: %w", err), repo.Close(), repo.unlock())
	}
	e := &Embedded{
		config: cfg,
		log:    cfg.Log,
		repo:   repo,
		node:   node,
		local:  blockservice.New(node.Blockstore, offline.Exchange(node.Blockstore)),
		life:   newLife(),
		policy: dialPolicy{private: cfg.AllowPrivateOrigins, loopbackOnly: cfg.Network == Private},
		asking: newAskPace(),
		search: make(chan struct{}, searches),
	}
	if cfg.Profile == Pebble {
		e.seen = newSeen()
	}
	if cfg.Network == Private {
		stayOnLoopback(node.Filters)
	}
	// From here on a pin is durable when the flush that follows it has returned, and many share one.
	if together, ok := node.Pinning.(interface{ SetAutosync(bool) bool }); ok {
		together.SetAutosync(false)
	}
	e.flusher = &flusher{flush: node.Pinning.Flush}
	e.holder = hold.NewHolder(embeddedNode{e}, walkers, cfg.Turns)
	return e, nil
}

// Close stops the node. Calls that run return pins.ErrUnavailable.
func (e *Embedded) Close() error {
	return e.life.end(func() error {
		e.origins.forget(e.node)
		// A clean pinset spares the next start a check of every pin.
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		err := e.flusher.wait(ctx)
		if e.node.Bootstrapper != nil { // Kubo forgets to
			err = errors.Join(err, e.node.Bootstrapper.Close())
		}
		return errors.Join(err, e.node.Close(), e.repo.unlock())
	})
}

// ID returns the node's peer id.
func (e *Embedded) ID(context.Context) (string, error) { return e.node.Identity.String(), nil }

// Hold implements pins.HotTier.
func (e *Embedded) Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return spaced(e.holder.Hold(ctx, root, lim, p))
}

// Lacks implements pins.HotTier.
func (e *Embedded) Lacks(root cid.Cid) bool {
	done, ok := e.life.visit()
	if !ok {
		return false
	}
	defer done()
	here, err := e.has(context.Background(), spec.Canonical(root))
	return err == nil && !here
}

// embeddedNode is what a Holder needs of the node.
type embeddedNode struct{ *Embedded }

// Session walks with a bitswap session of its own, or without any network: Kubo's own "offline" would still fetch
// what is missing below the root (H9).
func (e embeddedNode) Session(ctx context.Context, offline bool) hold.Get {
	service := e.node.Blocks
	if offline {
		service = e.local
	}
	session := blockservice.NewSession(ctx, service)
	get := func(ctx context.Context, c cid.Cid) (hold.Block, error) {
		leaf := c.Type() == cid.Raw
		if leaf {
			// A leaf that is here need not be read to be counted.
			if size, err := e.node.Blockstore.GetSize(ctx, c); err == nil {
				return hold.Block{Size: size}, nil
			}
		}
		block, err := session.GetBlock(ctx, c)
		switch {
		case err == nil:
			if leaf && !offline { // it was not here: bitswap has named it by hashing what it was sent
				e.seen.add(c.Hash())
			}
			return hold.Block{Size: len(block.RawData()), Data: block.RawData()}, nil
		case offline && ipld.IsNotFound(err):
			return hold.Block{}, pins.ErrAbsent
		case offline && rotten(err):
			return hold.Block{}, fmt.Errorf("%w: %w", pins.ErrAbsent, err)
		case rotten(err):
			return e.replace(ctx, c)
		default:
			return hold.Block{}, fmt.Errorf("getting block %s: %w", c, err)
		}
	}
	if !offline {
		return get
	}
	return func(ctx context.Context, c cid.Cid) (b hold.Block, err error) { // from the disk alone, so as fast as the processors are
		err = e.config.Turns.Do(ctx, pins.BehalfOf(ctx), func() error {
			b, err = get(ctx, c)
			return err
		})
		return b, err
	}
}

// replace gets a block from the network whose bytes here cannot be read, and stores it over them. The block service
// would only say that they cannot be read.
func (e embeddedNode) replace(ctx context.Context, c cid.Cid) (hold.Block, error) {
	block, err := e.node.Exchange.GetBlock(ctx, c)
	if err != nil {
		return hold.Block{}, fmt.Errorf("fetching block %s anew: %w", c, err)
	}
	data, err := verified(c, block.RawData())
	if err != nil {
		return hold.Block{}, err
	}
	if err := e.put(ctx, []blocks.Block{block}); err != nil { // the walk keeps collections out
		return hold.Block{}, err
	}
	return hold.Block{Size: len(data), Data: data}, nil
}

// Pin pins without walking again. It looks first, because pinning what is pinned removes the pin before it is made
// again (H1), and it lets no cancellation in between. What is pinned is flushed too: blocks of it may have been fetched or
// mended just now, and the flush that its pin waited for may have failed or not be over.
func (e embeddedNode) Pin(ctx context.Context, root cid.Cid) error {
	calm := context.WithoutCancel(ctx)
	if err := e.pin(calm, root); err != nil {
		return fmt.Errorf("pinning %s: %w", root, err)
	}
	if err := e.flusher.wait(ctx); err != nil {
		return fmt.Errorf("making the pin of %s durable: %w", root, err)
	}
	return nil
}

func (e embeddedNode) pin(ctx context.Context, root cid.Cid) error {
	defer e.node.Blockstore.PinLock(ctx).Unlock(ctx)
	_, already, err := e.node.Pinning.IsPinnedWithType(ctx, root, pinner.Recursive)
	if err != nil || already {
		return err
	}
	return e.node.Pinning.PinWithMode(ctx, root, pinner.Recursive, "")
}

// Release implements pins.HotTier.
func (e *Embedded) Release(ctx context.Context, root cid.Cid) error {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	root = spec.Canonical(root)
	return e.holder.Alone(ctx, root, func() error {
		if pinned, err := e.unpin(context.WithoutCancel(ctx), root); err != nil || !pinned {
			return err
		}
		if err := e.flusher.wait(ctx); err != nil {
			return fmt.Errorf("making the release of %s durable: %w", root, err)
		}
		return nil
	})
}

func (e *Embedded) unpin(ctx context.Context, root cid.Cid) (pinned bool, err error) {
	defer e.node.Blockstore.PinLock(ctx).Unlock(ctx)
	_, pinned, err = e.node.Pinning.IsPinnedWithType(ctx, root, pinner.Recursive)
	if err == nil && pinned {
		err = e.node.Pinning.Unpin(ctx, root, true)
	}
	if err != nil && !errors.Is(err, pinner.ErrNotPinned) {
		return pinned, fmt.Errorf("releasing %s: %w", root, err)
	}
	return pinned, nil
}

// Held implements pins.HotTier.
func (e *Embedded) Held(ctx context.Context, root cid.Cid) (bool, error) {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	// Only recursive pins: asking for all of them would walk every DAG (H8).
	_, pinned, err := e.node.Pinning.IsPinnedWithType(ctx, spec.Canonical(root), pinner.Recursive)
	if err != nil {
		return false, fmt.Errorf("looking for the pin of %s: %w", root, err)
	}
	return pinned, nil
}

// Roots implements pins.HotTier. Pins of CIDv0 are not ours: we never make one (H10).
func (e *Embedded) Roots(ctx context.Context, yield func(cid.Cid) error) error {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends Kubo's side when yield wants no more
	for pin := range e.node.Pinning.RecursiveKeys(ctx, false) {
		if pin.Err != nil {
			return fmt.Errorf("listing pins: %w", pin.Err)
		}
		if pin.Pin.Key.Version() == 0 {
			continue
		}
		if err := yield(pin.Pin.Key); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// Announce implements pins.HotTier. It puts root at the end of the queue of what is told to the routing system; a
// private network has none.
func (e *Embedded) Announce(ctx context.Context, root cid.Cid) error {
	_, done, err := e.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if e.config.Network == Private {
		return nil
	}
	if err := e.node.Provider.StartProviding(false, root.Hash()); err != nil {
		return fmt.Errorf("announcing %s: %w", root, err)
	}
	return nil
}

// Usage implements pins.HotTier.
func (e *Embedded) Usage(ctx context.Context) (pins.Usage, error) {
	ctx, done, err := e.life.begin(ctx)
	if err != nil {
		return pins.Usage{}, err
	}
	defer done()
	used, err := e.repo.GetStorageUsage(ctx)
	if err != nil {
		return pins.Usage{}, fmt.Errorf("measuring the repository: %w", err)
	}
	return pins.Usage{Bytes: int64(used), Free: freeSpace(e.config.Dir)}, nil
}
