package chain_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-jsonrpc"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/actors"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/go-state-types/manifest"
	"github.com/filecoin-project/lotus/api"
	lotusactors "github.com/filecoin-project/lotus/chain/actors"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/filecoin-project/lotus/node/modules/dtypes"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	cbg "github.com/whyrusleeping/cbor-gen"

	"github.com/frostpin/frostpin/deals/chain"
)

// A fake is a node made by hand: what is not set by a test is answered as Lotus answers what it does not serve.
type fake struct {
	api.FullNodeStruct

	mu      sync.Mutex
	head    *types.TipSet
	final   *types.TipSet
	tips    map[types.TipSetKey]*types.TipSet
	market  map[types.TipSetKey]cid.Cid // head of the market actor
	objects map[cid.Cid][]byte
	moved   chan struct{}
	now     time.Time // of new tipsets
}

// newFake is a node on network "test" whose wallet holds every key, with genesis as its only tipset.
func newFake(t *testing.T, genesis *types.TipSet) *fake {
	t.Helper()
	f := &fake{
		tips:    map[types.TipSetKey]*types.TipSet{genesis.Key(): genesis},
		market:  map[types.TipSetKey]cid.Cid{},
		objects: map[cid.Cid][]byte{},
		moved:   make(chan struct{}),
		now:     time.Now(),
	}
	f.head, f.final = genesis, genesis
	f.Internal.StateNetworkName = func(context.Context) (dtypes.NetworkName, error) { return "test", nil }
	f.Internal.ChainGetGenesis = func(context.Context) (*types.TipSet, error) { return genesis, nil }
	f.Internal.WalletSign = func(_ context.Context, a address.Address, m []byte) (*crypto.Signature, error) {
		return &crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: append([]byte(a.String()), m...)}, nil
	}
	f.Internal.WalletVerify = func(_ context.Context, a address.Address, m []byte, s *crypto.Signature) (bool, error) {
		return bytes.Equal(s.Data, append([]byte(a.String()), m...)), nil
	}
	f.Internal.ChainHead = func(context.Context) (*types.TipSet, error) { f.mu.Lock(); defer f.mu.Unlock(); return f.head, nil }
	f.Internal.ChainNotify = f.notify
	f.Internal.ChainGetFinalizedTipSet = func(context.Context) (*types.TipSet, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.final, nil
	}
	f.Internal.ChainGetTipSetByHeight = func(_ context.Context, h abi.ChainEpoch, key types.TipSetKey) (*types.TipSet, error) {
		return f.byHeight(h, key)
	}
	f.Internal.StateGetActor = func(_ context.Context, a address.Address, key types.TipSetKey) (*types.Actor, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		head, ok := f.market[key]
		if a != builtin.StorageMarketActorAddr || !ok {
			return nil, types.ErrActorNotFound
		}
		return &types.Actor{Code: marketCode(t), Head: head, Balance: big.Zero()}, nil
	}
	f.Internal.ChainReadObj = func(_ context.Context, c cid.Cid) ([]byte, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		raw, ok := f.objects[c]
		if !ok {
			return nil, fmt.Errorf("blockstore get: ipld: could not find %s", c)
		}
		return raw, nil
	}
	return f
}

func marketCode(t *testing.T) cid.Cid {
	t.Helper()
	codes, ok := lotusactors.GetActorCodeIDsFromManifest(actors.Version18)
	if !ok {
		t.Fatal("lotus has no actors v18")
	}
	return codes[manifest.MarketKey]
}

// put stores an object and returns its CID.
func (f *fake) put(t *testing.T, raw []byte) cid.Cid {
	t.Helper()
	c, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: multihash.BLAKE2B_MIN + 31}.Sum(raw)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects[c] = raw
	return c
}

// setMarket gives the market actor a state in the tipset.
func (f *fake) setMarket(t *testing.T, at *types.TipSet, proposals, states, pending cid.Cid) {
	t.Helper()
	var raw bytes.Buffer
	raw.Write(cbg.CborEncodeMajorType(cbg.MajArray, 3))
	for _, c := range []cid.Cid{proposals, states, pending} {
		if err := cbg.WriteCid(&raw, c); err != nil {
			t.Fatal(err)
		}
	}
	head := f.put(t, raw.Bytes())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.market[at.Key()] = head
}

// extend makes a tipset on top of another; it is not the head yet.
func (f *fake) extend(t *testing.T, on *types.TipSet, height abi.ChainEpoch, seed string) *types.TipSet {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	ts := newTipSet(t, on, height, seed, f.now)
	f.tips[ts.Key()] = ts
	return ts
}

// move makes a tipset the head, and another the final one.
func (f *fake) move(head, final *types.TipSet) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.head, f.final = head, final
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *fake) byHeight(h abi.ChainEpoch, key types.TipSetKey) (*types.TipSet, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ts, known := f.tips[key]
	if key.IsEmpty() {
		ts, known = f.head, true
	}
	if !known {
		return nil, fmt.Errorf("loading tipset %s: not found", key)
	}
	for ts.Height() > h {
		ts = f.tips[ts.Parents()]
	}
	return ts, nil
}

func (f *fake) notify(ctx context.Context) (<-chan []*api.HeadChange, error) {
	out := make(chan []*api.HeadChange)
	go func() {
		defer close(out)
		kind := "current"
		for {
			f.mu.Lock()
			head, moved := f.head, f.moved
			f.mu.Unlock()
			select {
			case out <- []*api.HeadChange{{Type: kind, Val: head}}:
			case <-ctx.Done():
				return
			}
			kind = "apply"
			select {
			case <-moved:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func newTipSet(t *testing.T, on *types.TipSet, height abi.ChainEpoch, seed string, at time.Time) *types.TipSet {
	t.Helper()
	dummy, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: multihash.BLAKE2B_MIN + 31}.Sum([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	miner, err := address.NewIDAddress(1000)
	if err != nil {
		t.Fatal(err)
	}
	var parents []cid.Cid
	if on != nil {
		parents = on.Cids()
	}
	sig := func() *crypto.Signature { return &crypto.Signature{Type: crypto.SigTypeBLS, Data: []byte(seed)} }
	ts, err := types.NewTipSet([]*types.BlockHeader{{
		Miner: miner, Height: height, Parents: parents, ParentWeight: big.NewInt(int64(height)),
		Ticket:          &types.Ticket{VRFProof: []byte(seed)},
		ElectionProof:   &types.ElectionProof{WinCount: 1, VRFProof: []byte(seed)},
		ParentStateRoot: dummy, ParentMessageReceipts: dummy, Messages: dummy,
		BLSAggregate: sig(), BlockSig: sig(), Timestamp: uint64(at.Unix()), ParentBaseFee: big.NewInt(100),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

// serve makes the node reachable, and returns the URL of its API.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	rpc := jsonrpc.NewServer(jsonrpc.WithServerErrors(api.RPCErrors))
	rpc.Register("Filecoin", &f.FullNodeStruct)
	srv := httptest.NewServer(rpc)
	t.Cleanup(srv.Close)
	t.Cleanup(srv.CloseClientConnections)
	return srv.URL
}

// A plug is an address behind which another node can be put.
type plug struct {
	net.Listener
	mu     sync.Mutex
	target string // host and port; empty: nobody answers
	open   []net.Conn
}

func newPlug(t *testing.T) *plug {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &plug{Listener: l}
	t.Cleanup(func() { l.Close(); p.into("") })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			target := p.target
			if target == "" {
				conn.Close()
				p.mu.Unlock()
				continue
			}
			other, err := net.Dial("tcp", target)
			if err != nil {
				conn.Close()
				p.mu.Unlock()
				continue
			}
			p.open = append(p.open, conn, other)
			p.mu.Unlock()
			go func() { io.Copy(other, conn); other.Close() }()
			go func() { io.Copy(conn, other); conn.Close() }()
		}
	}()
	return p
}

func (p *plug) url() string { return "ws://" + p.Addr().String() + "/rpc/v1" }

// into cuts all connections and lets new ones go to another node.
func (p *plug) into(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(url, "http://"), "ws://"), "/rpc/v1")
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

var wallet = func() address.Address {
	a, err := address.NewSecp256k1Address([]byte("the wallet"))
	if err != nil {
		panic(err)
	}
	return a
}()

// open connects; change may alter the settings.
func open(t *testing.T, url string, change func(*chain.Config)) *chain.Lotus {
	t.Helper()
	cfg := chain.Config{
		URL: url, Network: "test", Wallet: wallet,
		Timeout: 10 * time.Second, RetryFirst: time.Millisecond, RetryMax: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	l, err := chain.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// eventually waits until the condition holds, trying again after each sign of the chain and now and then between.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}
