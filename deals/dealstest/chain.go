package dealstest

import (
	"context"
	"fmt"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

var _ deals.Chain = (*Network)(nil)

// enter begins a call to the node and returns its head. The caller unlocks n.mu.
func (n *Network) enter(ctx context.Context) (deals.Epoch, error) {
	n.mu.Lock()
	head := n.advance() - n.lag
	n.calls++
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case n.down, n.flaky > 0 && n.calls%n.flaky == 0:
		return 0, fmt.Errorf("%w: %w", deals.ErrChain, errDown)
	}
	// A node never goes back below what it has called final: one that lags answers nothing.
	if head < n.present-n.cfg.Finality {
		return 0, fmt.Errorf("%w: the head is %d", deals.ErrChain, head)
	}
	n.present = max(n.present, head)
	return head, nil
}

func (n *Network) final(head deals.Epoch) deals.Epoch { return max(0, head-n.cfg.Finality) }

// Heads implements deals.Chain.
func (n *Network) Heads(ctx context.Context) (deals.Heads, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	return deals.Heads{Head: head, Final: n.final(head)}, err
}

// Follow implements deals.Chain. Hundred heads are told at once.
func (n *Network) Follow(ctx context.Context, seen func()) {
	ticker := time.NewTicker(100 * n.cfg.EpochTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			seen()
		}
	}
}

// Client implements deals.Chain.
func (n *Network) Client(ctx context.Context) (deals.Client, error) {
	_, err := n.enter(ctx)
	defer n.mu.Unlock()
	return n.client, err
}

const clientSecret, workerSecret = "client", "worker"

// Sign implements deals.Chain.
func (n *Network) Sign(ctx context.Context, message []byte) (crypto.Signature, error) {
	_, err := n.enter(ctx)
	defer n.mu.Unlock()
	return sign(clientSecret, message), err
}

// VerifyAsk implements deals.Chain.
func (n *Network) VerifyAsk(ctx context.Context, p deals.ProviderID, message []byte, s crypto.Signature) (bool, error) {
	_, err := n.enter(ctx)
	defer n.mu.Unlock()
	want := sign(workerSecret+p.String(), message)
	return want.Equals(&s), err
}

// Miner implements deals.Chain.
func (n *Network) Miner(ctx context.Context, p deals.ProviderID) (m deals.Miner, found bool, err error) {
	_, err = n.enter(ctx)
	defer n.mu.Unlock()
	if _, found = n.providers[p]; !found || err != nil {
		return deals.Miner{}, false, err
	}
	return deals.Miner{PeerID: "peer of " + p.String(), SectorSize: 32 << 30}, true, nil
}

// Collateral implements deals.Chain.
func (n *Network) Collateral(ctx context.Context, size abi.PaddedPieceSize, _ bool) (least, most abi.TokenAmount, err error) {
	_, err = n.enter(ctx)
	defer n.mu.Unlock()
	return big.NewIntUnsigned(uint64(size)), big.NewIntUnsigned(2 * uint64(size)), err
}

// Funds implements deals.Chain.
func (n *Network) Funds(ctx context.Context) (deals.Funds, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	return deals.Funds{Wallet: n.wallet, Escrow: n.escrow, Locked: n.locked(head), Datacap: big.Zero()}, err
}

// AddEscrow implements deals.Chain. Its message is on chain two epochs later.
func (n *Network) AddEscrow(ctx context.Context, key uuid.UUID, amount abi.TokenAmount) (cid.Cid, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	if err != nil {
		return cid.Undef, err
	}
	if m, ok := n.moved[key]; ok {
		if !m.amount.Equals(amount) {
			n.violate("escrow %s is moved with another amount", key)
		}
		return m.cid, nil
	}
	if n.wallet.LessThan(amount) {
		return cid.Undef, fmt.Errorf("%w: not enough funds", deals.ErrChain)
	}
	m := message{cid: named("escrow", key[:]), height: head + 2, amount: amount}
	n.moved[key], n.messages[m.cid] = m, m
	n.wallet = big.Sub(n.wallet, amount)
	n.at(m.height, func(deals.Epoch) { n.escrow = big.Add(n.escrow, amount) })
	return m.cid, nil
}

// Message implements deals.Chain.
func (n *Network) Message(ctx context.Context, c cid.Cid) (deals.Message, bool, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	m, ok := n.messages[c]
	if err != nil || !ok || m.height > head {
		return deals.Message{}, false, err
	}
	return deals.Message{Height: m.height}, true, nil
}

// Pending implements deals.Chain.
func (n *Network) Pending(ctx context.Context, p market.DealProposal) (bool, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	if err != nil {
		return false, err
	}
	d := n.byCID[mustCID(p)]
	return d != nil && d.isThere(head) && !d.isActive(head), nil
}

// Published implements deals.Chain.
func (n *Network) Published(ctx context.Context, c cid.Cid, p market.DealProposal) (abi.DealID, bool, error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	m, ok := n.messages[c]
	if err != nil || !ok || m.height > head {
		return 0, false, err
	}
	for _, d := range m.deals {
		if mustCID(d.signed) == mustCID(p) {
			return d.id, true, nil
		}
	}
	return 0, false, nil
}

// Events implements deals.Chain.
func (n *Network) Events(ctx context.Context, from deals.Epoch) (found []deals.Publication, read deals.Epoch, err error) {
	head, err := n.enter(ctx)
	defer n.mu.Unlock()
	if err != nil {
		return nil, from, err
	}
	if !n.cfg.Events {
		return nil, head + 1, nil
	}
	for _, d := range n.deals {
		if d.published >= from && d.published <= head {
			found = append(found, deals.Publication{Deal: d.id, Message: d.message})
		}
	}
	return found, head + 1, nil
}

func (d *deal) isThere(height deals.Epoch) bool {
	return d.published >= 0 && d.published <= height && (d.gone < 0 || d.gone > height)
}

func (d *deal) isActive(height deals.Epoch) bool {
	return d.isThere(height) && d.activated >= 0 && d.activated <= height
}

// find returns a deal by id. n.mu is held.
func (n *Network) find(id abi.DealID) *deal {
	if id == 0 || int(id) > len(n.deals) { //nolint:gosec // a small number
		return nil
	}
	return n.deals[id-1]
}

// Deal implements deals.Chain.
func (n *Network) Deal(ctx context.Context, id abi.DealID, final bool) (deals.OnChain, bool, error) {
	height, err := n.enter(ctx)
	defer n.mu.Unlock()
	if final {
		height = n.final(height)
	}
	d := n.find(id)
	if err != nil || d == nil || !d.isThere(height) {
		return deals.OnChain{}, false, err
	}
	out := deals.OnChain{Proposal: d.signed, SectorStart: -1, SlashEpoch: -1, ObservedAt: height}
	out.Proposal.Client = n.client.ID
	if d.isActive(height) {
		out.SectorStart, out.Sector = d.activated, abi.SectorNumber(id)
	}
	return out, true, nil
}

// Changed implements deals.Chain.
func (n *Network) Changed(ctx context.Context, since deals.Snapshot, ids func(yield func(abi.DealID) bool), changed func(abi.DealID) error) (deals.Snapshot, error) {
	head, err := n.enter(ctx)
	final := n.final(head)
	state := n.state(final)
	n.mu.Unlock()
	if err != nil {
		return deals.Snapshot{}, err
	}
	var failed error
	last := abi.DealID(0)
	ids(func(id abi.DealID) bool {
		n.mu.Lock()
		d := n.find(id)
		known := since.State.Defined()
		was := d != nil && d.isActive(since.Height)
		is := d != nil && d.isActive(final)
		if id <= last {
			n.violate("ids do not ascend: %d after %d", id, last)
		}
		if known && !was {
			n.violate("deal %d was not active at %d", id, since.Height)
		}
		last = id
		n.mu.Unlock()
		// What was not active before, and is not now, is where it was: a tree would not show it.
		if known && was != is || !known && !is {
			failed = changed(id)
		}
		return failed == nil
	})
	return deals.Snapshot{Height: final, State: state}, failed
}

// state names which deals are active at a height: as of a tree, the name is another one only where that is. n.mu is held.
func (n *Network) state(height deals.Epoch) cid.Cid {
	var active []byte
	for _, d := range n.deals {
		if d.isActive(height) {
			active = fmt.Append(active, d.id, " ")
		}
	}
	return named("state", active)
}

// Calls implements deals.Chain.
func (n *Network) Calls() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}
