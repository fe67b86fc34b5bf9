package hot_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/routing"
)

// A bitswapPeer is a peer on loopback that speaks real bitswap and can be told to misbehave.
type bitswapPeer struct {
	host    host.Host
	bitswap *bitswap.Bitswap
	store   *moodyStore
}

func newPeer(t testing.TB) *bitswapPeer {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	store := &moodyStore{
		Blockstore: blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore())),
		speaks:     make(chan struct{}), ended: ctx.Done(),
		wrong: make(map[cid.Cid][]byte), sent: make(map[string]int),
	}
	close(store.speaks)
	p := &bitswapPeer{host: h, store: store}
	p.bitswap = bitswap.New(ctx, bsnet.NewFromIpfsHost(h), noRouting{}, store)
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(p.bitswap.Close(), h.Close()); err != nil {
			t.Errorf("stopping the peer: %v", err)
		}
	})
	return p
}

func (p *bitswapPeer) info() peer.AddrInfo {
	return peer.AddrInfo{ID: p.host.ID(), Addrs: p.host.Addrs()}
}

// provide gives the peer blocks, and tells those who asked before.
func (p *bitswapPeer) provide(add ...blocks.Block) {
	ctx := context.Background()
	if err := p.store.PutMany(ctx, add); err != nil {
		panic(err)
	}
	if err := p.bitswap.NotifyNewBlocks(ctx, add...); err != nil {
		panic(err)
	}
}

// A moodyStore has every block it was given, but may not hand it out, or hand out something else.
type moodyStore struct {
	blockstore.Blockstore
	ended <-chan struct{}

	mu     sync.Mutex
	speaks chan struct{} // closed while the store answers
	silent bool
	wrong  map[cid.Cid][]byte
	sent   map[string]int
}

func (s *moodyStore) silence(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on == s.silent {
		return
	}
	s.silent = on
	if on {
		s.speaks = make(chan struct{})
		return
	}
	close(s.speaks)
}

// lie makes the store hand out other bytes for c.
func (s *moodyStore) lie(c cid.Cid, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong[c] = data
}

// asked tells how often c was handed out.
func (s *moodyStore) asked(c cid.Cid) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[string(c.Hash())]
}

func (s *moodyStore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	s.mu.Lock()
	speaks := s.speaks
	s.mu.Unlock()
	select {
	case <-speaks:
	case <-s.ended:
		return nil, io.ErrClosedPipe
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	s.sent[string(c.Hash())]++
	lie, lying := s.wrong[c]
	s.mu.Unlock()
	if lying {
		return blocks.NewBlockWithCid(lie, c)
	}
	return s.Blockstore.Get(ctx, c)
}

type noRouting struct{}

var _ routing.ContentDiscovery = noRouting{}

func (noRouting) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	none := make(chan peer.AddrInfo)
	close(none)
	return none
}
