package devnet

import (
	"cmp"
	"slices"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
)

// sentMessage is a message that the node has accepted, whatever became of it. It is kept for ever, as a node with a
// message index would.
type sentMessage struct {
	signed   *types.SignedMessage
	cid      cid.Cid
	uuid     uuid.UUID      // uuid.Nil = none
	earliest abi.ChainEpoch // not before this height
	included bool           // in a tipset of the canonical chain
	executed *lookup        // once that tipset has a child
}

// lookup is where the receipt of a message is: the child of the tipset that includes it.
type lookup struct {
	receipt types.MessageReceipt
	key     types.TipSetKey
	height  abi.ChainEpoch
}

// pool is every message known to the node, and those of them that wait to be included.
type pool struct {
	byCID   map[cid.Cid]*sentMessage
	byUUID  map[uuid.UUID]*sentMessage
	waiting map[address.Address][]*sentMessage // by key address of the sender, in nonce order
}

func newPool() *pool {
	return &pool{byCID: map[cid.Cid]*sentMessage{}, byUUID: map[uuid.UUID]*sentMessage{}, waiting: map[address.Address][]*sentMessage{}}
}

// know remembers a message without queueing it.
func (p *pool) know(s *sentMessage) {
	p.byCID[s.cid] = s
	if s.uuid != uuid.Nil {
		p.byUUID[s.uuid] = s
	}
}

func (p *pool) queue(s *sentMessage) {
	from := s.signed.Message.From
	list := append(p.waiting[from], s)
	slices.SortFunc(list, func(a, b *sentMessage) int { return cmp.Compare(a.signed.Message.Nonce, b.signed.Message.Nonce) })
	p.waiting[from] = list
}

func (p *pool) remove(s *sentMessage) {
	from := s.signed.Message.From
	p.waiting[from] = slices.DeleteFunc(p.waiting[from], func(x *sentMessage) bool { return x == s })
	if len(p.waiting[from]) == 0 {
		delete(p.waiting, from)
	}
}

// pick takes what may go into a tipset: each sender's messages as far as their nonces follow on. A message whose nonce
// has passed can never be included again and leaves the pool.
func (p *pool) pick(height abi.ChainEpoch, nonce func(address.Address) (uint64, error)) []*sentMessage {
	senders := make([]address.Address, 0, len(p.waiting))
	for a := range p.waiting {
		senders = append(senders, a)
	}
	slices.SortFunc(senders, func(a, b address.Address) int { return cmp.Compare(a.String(), b.String()) })
	var picked []*sentMessage
	for _, a := range senders {
		next, err := nonce(a)
		if err != nil {
			continue // the sender's account was reverted with the chain
		}
		for _, s := range slices.Clone(p.waiting[a]) {
			switch have := s.signed.Message.Nonce; {
			case have < next:
				p.remove(s)
				continue
			case have == next && s.earliest <= height:
				picked = append(picked, s)
				next++
				continue
			}
			break
		}
	}
	return picked
}

// nextNonce is the nonce after those that wait, or the account's own.
func (p *pool) nextNonce(from address.Address, state uint64) uint64 {
	for _, s := range p.waiting[from] {
		state = max(state, s.signed.Message.Nonce+1)
	}
	return state
}

// all lists the waiting messages.
func (p *pool) all() []*types.SignedMessage {
	var list []*types.SignedMessage
	for _, w := range p.waiting {
		for _, s := range w {
			list = append(list, s.signed)
		}
	}
	slices.SortFunc(list, func(a, b *types.SignedMessage) int {
		return cmp.Or(cmp.Compare(a.Message.From.String(), b.Message.From.String()), cmp.Compare(a.Message.Nonce, b.Message.Nonce))
	})
	return list
}
