package sp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/go-state-types/builtin/v18/miner"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// patience is after how many epochs a message that is not on chain is taken for lost, and sent as another one.
const patience = 30

// A chain is a provider's dealings with its node. Its methods run in the loop, one at a time.
type chain struct {
	p    *Provider
	node Node

	peer, addrs, escrow Sent // what is under way
	settled             atomic.Bool
	told, funded        bool
}

func newChain(p *Provider) *chain { return &chain{p: p, node: p.node} }

type marshaler interface{ MarshalCBOR(w io.Writer) error }

// push signs and sends a message under the identity that s carries; sending it again is harmless.
func (c *chain) push(ctx context.Context, s *Sent, to address.Address, method abi.MethodNum, value abi.TokenAmount, params marshaler) error {
	var encoded bytes.Buffer
	if params != nil {
		if err := params.MarshalCBOR(&encoded); err != nil {
			return fmt.Errorf("encoding a message: %w", err)
		}
	}
	signed, err := c.node.MpoolPushMessage(ctx, &types.Message{
		To: to, From: c.p.cfg.Worker, Value: value, Method: method, Params: encoded.Bytes(),
	}, &api.MessageSendSpec{MsgUuid: s.ID})
	if err != nil {
		return fmt.Errorf("sending a message: %w", err)
	}
	s.CID, s.Height = signed.Cid(), c.p.height()
	return nil
}

// refused tells whether the node has run the message and found that it fails, as opposed to not having answered.
func refused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "message execution failed") || strings.Contains(text, "(RetCode=") || strings.Contains(text, "exit=[")
}

// landed returns what came of a message, or nil while it is not on chain (deep enough). A message that is lost is
// forgotten, so that the next step sends another.
func (c *chain) landed(ctx context.Context, s *Sent) (*api.MsgLookup, error) {
	found, err := c.node.StateSearchMsg(ctx, types.EmptyTSK, s.CID, api.LookbackNoLimit, true)
	if err != nil {
		return nil, fmt.Errorf("searching message %s: %w", s.CID, err)
	}
	head := c.p.height()
	if found == nil {
		if head > s.Height+patience {
			*s = Sent{}
		}
		return nil, nil // "not yet" is no error
	}
	if head < found.Height+c.p.cfg.Confidence {
		return nil, nil
	}
	return found, nil
}

// keep sends what is wanted unless it is under way. It returns true once nothing is under way.
func (c *chain) keep(ctx context.Context, s *Sent, to address.Address, method abi.MethodNum, value abi.TokenAmount, params marshaler) error {
	if s.pending() {
		found, err := c.landed(ctx, s)
		if err != nil || found == nil {
			return err
		}
		// It may have failed, or have been overtaken: look again.
		*s = Sent{}
		return nil
	}
	s.ID = uuid.New()
	return c.push(ctx, s, to, method, value, params)
}

// identify tells the chain the peer id and the addresses.
func (c *chain) identify(ctx context.Context) error {
	info, err := c.node.StateMinerInfo(ctx, c.p.cfg.Miner, types.EmptyTSK)
	if err != nil {
		return fmt.Errorf("reading the miner: %w", err)
	}
	id := c.p.net.announcedID()
	listening, _ := c.p.net.addrs()
	want := make([]abi.Multiaddrs, 0, len(listening))
	for _, addr := range listening {
		want = append(want, addr.Bytes())
	}
	samePeer := info.PeerId != nil && *info.PeerId == id
	sameAddrs := len(want) == 0 || equalAddrs(info.Multiaddrs, want)
	c.told = samePeer && sameAddrs
	c.settled.Store(c.told && c.funded)
	if !samePeer {
		err := c.keep(ctx, &c.peer, c.p.cfg.Miner, builtin.MethodsMiner.ChangePeerID, big.Zero(), &miner.ChangePeerIDParams{NewID: peerBytes(id)})
		if err != nil {
			return fmt.Errorf("changing the peer id: %w", err)
		}
	}
	if !sameAddrs {
		err := c.keep(ctx, &c.addrs, c.p.cfg.Miner, builtin.MethodsMiner.ChangeMultiaddrs, big.Zero(), &miner.ChangeMultiaddrsParams{NewMultiaddrs: want})
		if err != nil {
			return fmt.Errorf("changing the addresses: %w", err)
		}
	}
	return nil
}

func peerBytes(id peer.ID) abi.PeerID { return abi.PeerID(id) }

func equalAddrs(a, b []abi.Multiaddrs) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// fund keeps enough in escrow for the collateral of the deals that are about to be published, and the floor beside.
func (c *chain) fund(ctx context.Context) error {
	balance, err := c.node.StateMarketBalance(ctx, c.p.cfg.Miner, types.EmptyTSK)
	if err != nil {
		return fmt.Errorf("reading the escrow: %w", err)
	}
	need := c.p.cfg.Escrow
	for _, d := range c.p.Deals() {
		switch d.Stage {
		case Accepted, Transferred, Published:
			need = big.Add(need, d.proposal().ProviderCollateral)
		case PublishConfirmed, AddedPiece, Sealed, Complete, Failed, Ended:
		}
	}
	free := big.Sub(balance.Escrow, balance.Locked)
	c.funded = free.GreaterThanEqual(need)
	c.settled.Store(c.told && c.funded)
	if c.funded && !c.escrow.pending() {
		return nil
	}
	who := c.p.cfg.Miner
	// Twice what is missing, so that not every deal brings a message.
	err = c.keep(ctx, &c.escrow, builtin.StorageMarketActorAddr, builtin.MethodsMarket.AddBalance,
		big.Max(big.Mul(big.Sub(need, free), big.NewInt(2)), big.NewInt(1)), &who)
	if err != nil {
		return fmt.Errorf("adding collateral: %w", err)
	}
	return nil
}
