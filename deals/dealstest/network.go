package dealstest

import (
	"container/heap"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/deals"
)

// FIL is 10^18 attoFIL.
func FIL(n int64) abi.TokenAmount {
	return big.Mul(big.NewInt(n), big.NewInt(1_000_000_000_000_000_000))
}

// Config says how the network runs.
type Config struct {
	EpochTime time.Duration
	Finality  deals.Epoch // how far the final tipset is behind the head
	Wallet    abi.TokenAmount
	Escrow    abi.TokenAmount
	Events    bool // the node tells which deals were published
}

// A Network is a chain, a wallet and providers. All methods may be called concurrently.
type Network struct {
	mu        sync.Mutex
	cfg       Config
	born      time.Time
	client    deals.Client
	deals     []*deal // the id is the index + 1
	byCID     map[cid.Cid]*deal
	providers map[deals.ProviderID]*Provider
	queue     events
	escrow    abi.TokenAmount
	wallet    abi.TokenAmount
	moved     map[uuid.UUID]message
	messages  map[cid.Cid]message
	sent      map[uuid.UUID][]byte
	located   map[deals.ProviderID]int
	wrong     []string

	down    bool        // the node does not answer
	flaky   int64       // every so manieth call fails; 0: none
	lag     deals.Epoch // the node is so far behind
	calls   int64
	present deals.Epoch
}

type message struct {
	cid    cid.Cid
	height deals.Epoch
	deals  []*deal // published by it
	amount abi.TokenAmount
}

// A deal is what the market keeps, with the heights at which it changed; -1: never.
type deal struct {
	id                         abi.DealID
	uuid                       uuid.UUID
	signed                     market.DealProposal // with key addresses
	provider                   deals.ProviderID
	published, activated, gone deals.Epoch
	message                    cid.Cid
}

func (d *deal) cost() abi.TokenAmount { return d.signed.TotalStorageFee() }

const firstHeight = 1000

// New starts a network now.
func New(cfg Config) *Network {
	n := &Network{
		cfg: cfg, born: time.Now(), byCID: map[cid.Cid]*deal{}, providers: map[deals.ProviderID]*Provider{},
		escrow: cfg.Escrow, wallet: cfg.Wallet, moved: map[uuid.UUID]message{}, messages: map[cid.Cid]message{},
		sent: map[uuid.UUID][]byte{}, located: map[deals.ProviderID]int{},
	}
	if n.escrow.Nil() {
		n.escrow = big.Zero()
	}
	if n.wallet.Nil() {
		n.wallet = big.Zero()
	}
	key, err := address.NewSecp256k1Address([]byte("the key of the client"))
	if err != nil {
		panic(err)
	}
	id, err := address.NewIDAddress(100)
	if err != nil {
		panic(err)
	}
	n.client = deals.Client{Key: key, ID: id}
	return n
}

// An event happens at a height.
type event struct {
	at deals.Epoch
	n  int // of those at one height the first planned comes first
	do func(at deals.Epoch)
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) } //nolint:forcetypeassert // the heap holds nothing else
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// at plans something. n.mu is held.
func (n *Network) at(height deals.Epoch, do func(at deals.Epoch)) {
	n.calls++ // any number that grows
	heap.Push(&n.queue, event{at: height, n: int(n.calls), do: do})
}

// advance does what was to happen until now and returns the height. n.mu is held.
func (n *Network) advance() deals.Epoch {
	height := firstHeight + deals.Epoch(time.Since(n.born)/n.cfg.EpochTime)
	for len(n.queue) > 0 && n.queue[0].at <= height {
		e := heap.Pop(&n.queue).(event) //nolint:forcetypeassert // the heap holds nothing else
		e.do(e.at)
	}
	return height
}

// violate records that somebody has done what must never happen.
func (n *Network) violate(format string, args ...any) {
	n.wrong = append(n.wrong, fmt.Sprintf(format, args...))
}

// Violations are what must never have happened and has.
func (n *Network) Violations() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.wrong...)
}

// publish is PublishStorageDeals of one deal.
func (n *Network) publish(d *deal, at deals.Epoch) {
	switch {
	case d.published >= 0 || at > d.signed.StartEpoch:
		return
	case n.byCID[mustCID(d.signed)] != nil:
		n.violate("proposal %s is published twice", mustCID(d.signed))
		return
	case big.Sub(n.escrow, n.locked(at)).LessThan(d.cost()):
		return // the provider's message fails
	}
	d.published, d.id = at, abi.DealID(len(n.deals)+1)
	n.deals = append(n.deals, d)
	n.byCID[mustCID(d.signed)] = d
	d.message = named("publish", d.uuid[:])
	n.messages[d.message] = message{cid: d.message, height: at, deals: []*deal{d}}
	// What was not activated is dropped some time after its start.
	n.at(d.signed.StartEpoch+deals.EpochsPerDay, func(at deals.Epoch) {
		if d.activated < 0 {
			d.gone = at
		}
	})
}

// activate is the proof of the sector.
func (n *Network) activate(d *deal, at deals.Epoch) {
	if d.published >= 0 && d.gone < 0 && at <= d.signed.StartEpoch {
		d.activated = at
	}
}

// slash drops a deal before its end.
func (n *Network) slash(d *deal, at deals.Epoch) {
	if d.activated >= 0 && d.gone < 0 && at < d.signed.EndEpoch {
		d.gone = at
	}
}

// locked is the escrow that deals hold.
func (n *Network) locked(at deals.Epoch) abi.TokenAmount {
	sum := big.Zero()
	for _, d := range n.deals {
		if d.gone < 0 && at < d.signed.EndEpoch {
			sum = big.Add(sum, d.cost())
		}
	}
	return sum
}

func mustCID(p market.DealProposal) cid.Cid {
	c, err := p.Cid()
	if err != nil {
		panic(err)
	}
	return c
}

func named(what string, b []byte) cid.Cid {
	sum, err := multihash.Sum(append([]byte(what), b...), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(cid.Raw, sum)
}

func sign(who string, message []byte) crypto.Signature {
	sum := sha256.Sum256(append([]byte(who), message...))
	return crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: sum[:]}
}

// A Deal is what tests see of a deal on chain.
type Deal struct {
	ID                         abi.DealID
	UUID                       uuid.UUID
	Provider                   deals.ProviderID
	Root                       string
	Start, End                 deals.Epoch
	Published, Activated, Gone deals.Epoch // -1: never
	Cost                       abi.TokenAmount
}

// Deals are all that were ever published.
func (n *Network) Deals() []Deal {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.advance()
	out := make([]Deal, 0, len(n.deals))
	for _, d := range n.deals {
		root, err := d.signed.Label.ToString()
		if err != nil {
			panic(err)
		}
		out = append(out, Deal{
			ID: d.id, UUID: d.uuid, Provider: d.provider, Root: root, Start: d.signed.StartEpoch, End: d.signed.EndEpoch,
			Published: d.published, Activated: d.activated, Gone: d.gone, Cost: d.cost(),
		})
	}
	return out
}

// Height is that of the head.
func (n *Network) Height() deals.Epoch {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.advance()
}

// Slash drops an active deal of a provider, if it has one, and tells whether it had.
func (n *Network) Slash(p deals.ProviderID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	height := n.advance()
	for _, d := range n.deals {
		if d.provider == p && d.activated >= 0 && d.gone < 0 && height < d.signed.EndEpoch {
			n.slash(d, height)
			return true
		}
	}
	return false
}

// Node changes how the node behaves.
func (n *Network) Node(down bool, flaky int64, lag deals.Epoch) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down, n.flaky, n.lag = down, flaky, lag
}

var errDown = errors.New("connection refused")
