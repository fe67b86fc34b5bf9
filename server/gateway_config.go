package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/path"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
)

// Blocks is where the gateway reads: retrieval.
type Blocks interface {
	// Blocks reads the hot tier and then, below a root that WithRoot named, from afar.
	Blocks() blockservice.BlockService
	// HotBlocks reads the hot tier only. It never asks anybody else.
	HotBlocks() blockservice.BlockService
	// WithRoot lets reads below root go to the cold copies of root, which is canonical (CIDv1).
	WithRoot(ctx context.Context, root cid.Cid) context.Context
	// WithTrail begins to record who answers the reads of a request.
	WithTrail(ctx context.Context) (context.Context, Trail)
	// Prefetch says that all of the DAG below top is about to be read and that not all of it is hot. It returns at
	// once. ctx has the root and the trail.
	Prefetch(ctx context.Context, root, top cid.Cid)
	// Fault tells what the error of a read means. What is not known is FaultNone.
	Fault(err error) Fault
}

// A Trail tells who has answered so far. It is safe for concurrent use and cheap to ask.
type Trail interface {
	Tier() string        // TierHot as long as nothing came from elsewhere
	Providers() []string // who answered with what was not hot, each once
}

// Tiers, as headers and metrics have them.
const (
	TierHot  = "hot"
	TierCold = "cold"
	tierNone = "none" // in metrics: nothing was served
)

// Roots knows what is pinned.
type Roots interface {
	// Known reports whether any pin names this DAG.
	Known(ctx context.Context, root cid.Cid) (bool, error)
	// KnownTo reports whether a pin of this account does.
	KnownTo(ctx context.Context, account pins.Account, root cid.Cid) (bool, error)
	// Touched says that a reader began to read below root, and whether not all of it was hot. It returns at once.
	Touched(root cid.Cid, cold bool)
}

// A Denylist knows what must not be served or pinned. An error is about one CID or path, has a method Status() int that
// returns 410 or 451, and a text that can be shown.
type Denylist interface {
	Denied(c cid.Cid) error
	DeniedPath(p path.Path) error
}

// Access is who may read.
type Access string

// Who may read.
const (
	AccessOpen  Access = "open"  // everyone; the default
	AccessToken Access = "token" // who has a token of an account that pins the root, or a signed link from one
	AccessOff   Access = "off"   // nobody: there is no gateway
)

// Fetch is what may be read from elsewhere than the hot tier.
type Fetch string

// What may be read from elsewhere.
const (
	FetchHeld Fetch = "held" // below roots that are pinned; others are read from the hot tier or not at all. The default
	FetchOnly Fetch = "only" // below roots that are pinned; others are not read at all
	FetchAny  Fetch = "any"  // everything: an open proxy
)

// Gateway configures the reading of content at /ipfs. Zero is the default, where nothing else is said.
type Gateway struct {
	Blocks Blocks // required
	Roots  Roots  // required

	Access    Access
	Fetch     Fetch
	Trustless bool     // only raw blocks and CARs: readers verify what they get
	Hostnames []string // each also serves https://CID.ipfs.HOSTNAME, with an origin of its own for each root
	LinkKey   []byte   // signs links; at least 32 bytes. No links when empty
	URL       string   // where readers find this server, for links: https://gateway.example.org. The request's host when empty

	MaxRequests         int           // at once; 1024. One account gets a quarter
	RetrievalTimeout    time.Duration // without any progress, until 504 or the cut; 60 s. Longer than retrieval itself tries
	Stall               time.Duration // a reader who takes nothing for so long is dropped; 30 s
	MaxDuration         time.Duration // of one answer; 24 h
	MaxDeserializedSize int64         // bytes of a file or directory that is shown as such; no bound when zero
	MaxDAGSize          int64         // bytes of a file or directory in any format; no bound when zero

	// Turns are taken by reads that need much of the processors. Nil: all at once.
	Turns *pins.Turns

	// Sent is told how many bytes readers were sent for whom an account answers, at each MiB and at the end, also when the
	// transfer broke off; cold: not all of them were here. Nobody answers for what is open to everyone.
	Sent func(account pins.Account, cold bool, bytes int64)

	// MayRead tells whether anything more may be sent to them: *pins.QuotaError if not. Nil: always.
	MayRead func(ctx context.Context, account pins.Account) error

	Now func() time.Time // time.Now when nil
}

func (g Gateway) withDefaults() (Gateway, error) {
	g.Access = cmp.Or(g.Access, AccessOpen)
	g.Fetch = cmp.Or(g.Fetch, FetchHeld)
	g.MaxRequests = cmp.Or(g.MaxRequests, 1024)
	g.RetrievalTimeout = cmp.Or(g.RetrievalTimeout, time.Minute)
	g.Stall = cmp.Or(g.Stall, 30*time.Second)
	g.MaxDuration = cmp.Or(g.MaxDuration, 24*time.Hour)
	g.MaxDAGSize = cmp.Or(g.MaxDAGSize, 1<<50) // never unset: without it a CAR of nothing is answered with 200
	if g.Now == nil {
		g.Now = time.Now
	}
	switch {
	case g.Blocks == nil || g.Roots == nil:
		return g, errors.New("a gateway needs blocks and roots")
	case g.Access != AccessOpen && g.Access != AccessToken && g.Access != AccessOff:
		return g, fmt.Errorf("access to the gateway cannot be %q", g.Access)
	case g.Fetch != FetchHeld && g.Fetch != FetchOnly && g.Fetch != FetchAny:
		return g, fmt.Errorf("what the gateway fetches cannot be %q", g.Fetch)
	case len(g.LinkKey) > 0 && len(g.LinkKey) < minLinkKey:
		return g, fmt.Errorf("the key of links has %d bytes; at least %d are needed", len(g.LinkKey), minLinkKey)
	}
	if g.URL != "" {
		if u, err := url.Parse(g.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
			return g, fmt.Errorf("the url of the gateway cannot be %q", g.URL)
		}
	}
	for _, name := range g.Hostnames {
		if name == "" || strings.ToLower(name) != name || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.:") != "" {
			return g, fmt.Errorf("the gateway cannot have the host name %q", name)
		}
	}
	return g, nil
}
