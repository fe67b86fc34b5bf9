package hot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	iface "github.com/ipfs/kubo/core/coreiface"
	"github.com/ipfs/kubo/core/coreiface/options"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/spec"
)

const (
	// remoteWalkers is how many blocks one Hold asks the daemon for at once.
	remoteWalkers = 16

	// How many requests may wait for blocks in all Holds, and how long each may when others want to.
	walkSlots = 512
	walkTurn  = 10 * time.Second
	readSlots = 128 // and how many may read what is there
)

// RemoteConfig is what an operator decides about a Kubo daemon that runs elsewhere.
type RemoteConfig struct {
	URL                 string      // of its RPC API, like http://127.0.0.1:5001
	Authorization       string      // the whole header, like "Bearer …"; a secret
	AllowPrivateOrigins bool        // let it dial loopback and private addresses that strangers name
	Announce            []string    // multiaddresses told to clients before those the daemon finds out itself
	LastDelegates       []string    // what Delegates told last, in an earlier process: told while the daemon is down
	Turns               *pins.Turns // for decoding; nil: all at once
	Log                 *slog.Logger
}

// String keeps the secret out of whatever prints a RemoteConfig.
func (c RemoteConfig) String() string { return "kubo daemon at " + c.URL }

// GoString does the same for %#v.
func (c RemoteConfig) GoString() string { return c.String() }

// LogValue does the same for logs.
func (c RemoteConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Remote is a Kubo daemon behind its RPC API. OpenRemote makes one.
type Remote struct {
	config  RemoteConfig
	log     *slog.Logger
	daemon  *daemon
	local   iface.CoreAPI // the same, without its network
	holder  *hold.Holder
	imports hold.Imports
	life    *life
	policy  dialPolicy
	walking *slots
	reading *slots
	first   *slots // roots that are looked for the first time
	later   *slots

	peerMu   sync.Mutex
	peerings map[string]int // users of the peers that we told the daemon to stay connected to

	delegates delegateCache
}

var _ pins.HotTier = (*Remote)(nil)

// OpenRemote prepares the connection. The daemon need not be there yet: until it is, calls return
// pins.ErrUnavailable.
func OpenRemote(ctx context.Context, cfg RemoteConfig) (*Remote, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if u, err := url.Parse(cfg.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the address of the kubo daemon's RPC API must look like http://127.0.0.1:5001")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := prepareKubo(); err != nil {
		return nil, err
	}
	d, err := newDaemon(cfg.URL, cfg.Authorization)
	if err != nil {
		return nil, err
	}
	local, err := d.WithOptions(options.Api.Offline(true))
	if err != nil {
		return nil, fmt.Errorf("preparing kubo's client: %w", err)
	}
	r := &Remote{
		config:   cfg,
		log:      cfg.Log,
		daemon:   d,
		local:    local,
		life:     newLife(),
		policy:   dialPolicy{private: cfg.AllowPrivateOrigins},
		walking:  newSlots(walkSlots, walkTurn),
		reading:  newSlots(readSlots, walkTurn),
		first:    newSlots(findSlots, firstTurn),
		later:    newSlots(findSlots, laterTurn),
		peerings: make(map[string]int),
	}
	r.delegates.known = slices.Clone(cfg.LastDelegates)
	r.holder = hold.NewHolder(remoteNode{r}, remoteWalkers, cfg.Turns)
	return r, nil
}

// Close ends the connection. The daemon and what it holds stay as they are.
func (r *Remote) Close() error {
	return r.life.end(func() error {
		r.daemon.close()
		return nil
	})
}

// ID returns the daemon's peer id.
func (r *Remote) ID(ctx context.Context) (string, error) {
	var out struct{ ID string }
	err := r.quick(ctx, func(ctx context.Context) error { return r.daemon.Request("id").Exec(ctx, &out) })
	if err != nil {
		return "", fmt.Errorf("asking the daemon for its id: %w", err)
	}
	return out.ID, nil
}

// quick lets a short request in while the tier is open.
func (r *Remote) quick(ctx context.Context, f func(context.Context) error) error {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return r.daemon.quick(ctx, f)
}

// Lacks implements pins.HotTier. Only the daemon knows.
func (r *Remote) Lacks(cid.Cid) bool { return false }

// Hold implements pins.HotTier.
func (r *Remote) Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return spaced(r.holder.Hold(ctx, root, lim, p))
}

// remoteNode is what a Holder needs of the daemon.
type remoteNode struct{ *Remote }

// Session walks block by block: there are no bitswap sessions over RPC. Leaves stay in the daemon, which is only
// asked for their size; what has links is read, checked against its CID and decoded here.
func (r remoteNode) Session(_ context.Context, offline bool) hold.Get {
	if offline {
		return func(ctx context.Context, c cid.Cid) (b hold.Block, err error) {
			err = r.reading.do(ctx, func(ctx context.Context) error {
				return r.daemon.quick(ctx, func(ctx context.Context) error {
					b, err = readBlock(ctx, r.local, c)
					return err
				})
			})
			if isNotFound(err) {
				return b, pins.ErrAbsent
			}
			return b, err
		}
	}
	return func(ctx context.Context, c cid.Cid) (b hold.Block, err error) {
		err = r.walking.do(ctx, func(ctx context.Context) error {
			return r.daemon.patient(ctx, func(ctx context.Context) error {
				b, err = readBlock(ctx, r.daemon, c)
				return err
			})
		})
		return b, err
	}
}

func readBlock(ctx context.Context, api iface.CoreAPI, c cid.Cid) (hold.Block, error) {
	if c.Type() == cid.Raw {
		stat, err := api.Block().Stat(ctx, path.FromCid(c))
		if err != nil {
			return hold.Block{}, fmt.Errorf("getting block %s: %w", c, err)
		}
		return hold.Block{Size: stat.Size()}, nil
	}
	data, err := blockBytes(ctx, api, c)
	if err != nil {
		return hold.Block{}, err
	}
	return hold.Block{Size: len(data), Data: data}, nil
}

func isNotFound(err error) bool {
	return err != nil && (ipld.IsNotFound(err) || strings.Contains(err.Error(), "could not find"))
}

// Pin lets the daemon pin what is there. It looks first, because pinning what is pinned removes the pin before it is
// made again (H1).
func (r remoteNode) Pin(ctx context.Context, root cid.Cid) error {
	pinned, err := r.pinned(ctx, root)
	if err != nil || pinned {
		return err
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// When a block has gone meanwhile, the daemon waits for it with its pins locked (H2, H21).
	still := time.AfterFunc(r.daemon.patience.still, func() {
		cancel(errors.New("the daemon stands still; was a block collected behind our back?"))
	})
	defer still.Stop()
	request := r.daemon.Request("pin/add", path.FromCid(root).String()).Option("progress", true)
	seen := 0
	err = stream(inner, request, func(line struct{ Progress int }) error {
		if line.Progress > seen { // it also says that nothing has changed
			seen = line.Progress
			still.Reset(r.daemon.patience.still)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("pinning %s: %w", root, because(inner, err))
	}
	return nil
}

// pinned asks for recursive pins only: for all of them the daemon would walk every DAG (H8).
func (r *Remote) pinned(ctx context.Context, root cid.Cid) (pinned bool, err error) {
	err = r.daemon.quick(ctx, func(ctx context.Context) error {
		_, pinned, err = r.daemon.Pin().IsPinned(ctx, path.FromCid(root), options.Pin.IsPinned.Recursive())
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking for the pin of %s: %w", root, err)
	}
	return pinned, nil
}

// Held implements pins.HotTier.
func (r *Remote) Held(ctx context.Context, root cid.Cid) (bool, error) {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	return r.pinned(ctx, spec.Canonical(root))
}

// Release implements pins.HotTier.
func (r *Remote) Release(ctx context.Context, root cid.Cid) error {
	ctx, done, err := r.life.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	root = spec.Canonical(root)
	return r.holder.Alone(ctx, root, func() error {
		err := r.daemon.quick(ctx, func(ctx context.Context) error {
			return r.daemon.Pin().Rm(ctx, path.FromCid(root), options.Pin.RmRecursive(true))
		})
		if err != nil && !strings.Contains(err.Error(), "not pinned") {
			return fmt.Errorf("releasing %s: %w", root, err)
		}
		return nil
	})
}
