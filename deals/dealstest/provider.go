package dealstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

var _ deals.Market = (*Network)(nil)

// A Provider says how a storage provider behaves. Faults may be mixed.
type Provider struct {
	Price         abi.TokenAmount // attoFIL per GiB and epoch; nil: nothing
	MinPiece      abi.PaddedPieceSize
	Publish, Seal deals.Epoch // epochs from acceptance to publication, and from there to activation
	Curio         bool        // names neither message nor id until it has sealed
	Offline       bool        // cannot be reached
	Reject        string      // refuses with this text
	Later         bool        // and says that this may pass
	Sneaks        bool        // and publishes it all the same
	Hang          bool        // takes a proposal and never answers
	LoseAnswer    bool        // accepts a proposal and breaks the connection
	LoseProposal  bool        // breaks the connection before it has read the proposal
	NeverPublish  bool
	NeverSeal     bool
	SealLate      bool        // after the start epoch
	GiveUp        bool        // says that it failed
	Relents       deals.Epoch // after so many epochs it publishes what it gave up; 0: never
	Forget        bool        // does not know what it has accepted, and publishes nothing
	WrongID       bool        // names another deal's id
	WrongMessage  bool        // names a message that has not published the deal
	OtherProposal bool        // tells of another proposal
	URLs          []string    // where it serves over HTTP
	Silent        bool        // never tells how a deal goes
	accepted      map[uuid.UUID]*deal
}

// Add makes a provider, or changes how one behaves: what it has accepted goes on as it began.
func (n *Network) Add(id deals.ProviderID, p Provider) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p.accepted = map[uuid.UUID]*deal{}
	if old := n.providers[id]; old != nil {
		p.accepted = old.accepted
	}
	if p.Price.Nil() {
		p.Price = big.Zero()
	}
	n.providers[id] = &p
}

// Name implements deals.Market.
func (n *Network) Name() string { return "model" }

// Ask implements deals.Market.
func (n *Network) Ask(ctx context.Context, c deals.Contact) (deals.Ask, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.providers[c.Provider]
	if ctx.Err() != nil || p == nil || p.Offline {
		return deals.Ask{}, errors.New("no route to host")
	}
	ask := deals.Ask{
		Price: p.Price, VerifiedPrice: p.Price, MinPiece: max(128, p.MinPiece), MaxPiece: 32 << 30,
		Expiry: n.advance() + 10*deals.EpochsPerDay, Signed: []byte(p.Price.String()),
	}
	signature := sign(workerSecret+c.Provider.String(), ask.Signed)
	ask.Signature = &signature
	return ask, nil
}

// Transports implements deals.Market.
func (n *Network) Transports(ctx context.Context, c deals.Contact) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.providers[c.Provider]
	if ctx.Err() != nil || p == nil || p.Offline {
		return nil, errors.New("no route to host")
	}
	n.located[c.Provider]++
	return append([]string{}, p.URLs...), nil
}

// Located is how often a provider has answered where it serves.
func (n *Network) Located(id deals.ProviderID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.located[id]
}

// wire is the message of the model.
type wire struct {
	UUID   uuid.UUID `json:"uuid"`
	Signed []byte    `json:"signed"`
	Root   string    `json:"root"`
	From   transfer  `json:"from"`
}

// transfer is a deals.Transfer as it is written down.
type transfer struct {
	URL    string `json:"url"`
	Bearer string `json:"bearer"`
	Size   uint64 `json:"size"`
}

// Compose implements deals.Market.
func (n *Network) Compose(id uuid.UUID, signed market.ClientDealProposal, root cid.Cid, from deals.Transfer) ([]byte, error) {
	var b bytes.Buffer
	if err := signed.MarshalCBOR(&b); err != nil {
		return nil, err
	}
	return json.Marshal(wire{UUID: id, Signed: b.Bytes(), Root: root.String(), From: transfer(from)})
}

// Propose implements deals.Market.
func (n *Network) Propose(ctx context.Context, c deals.Contact, message []byte) (deals.Answer, error) {
	answer, hang, err := n.receive(ctx, c, message)
	if hang {
		<-ctx.Done()
		return deals.Answer{}, context.Cause(ctx)
	}
	return answer, err
}

func (n *Network) receive(ctx context.Context, c deals.Contact, message []byte) (answer deals.Answer, hang bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	head := n.advance()
	p := n.providers[c.Provider]
	if ctx.Err() != nil || p == nil || p.Offline {
		return deals.Answer{}, false, fmt.Errorf("%w: no route to host", deals.ErrNotSent)
	}
	var w wire
	var signed market.ClientDealProposal
	if err := errors.Join(json.Unmarshal(message, &w), signed.UnmarshalCBOR(bytes.NewReader(w.Signed))); err != nil {
		n.violate("a message cannot be read: %v", err)
		return deals.Answer{}, false, err
	}
	if before, ok := n.sent[w.UUID]; ok && !bytes.Equal(before, message) {
		n.violate("attempt %s is sent as another message", w.UUID)
	}
	n.sent[w.UUID] = message
	switch {
	case p.LoseProposal:
		return deals.Answer{}, false, errors.New("connection reset")
	case p.Hang:
		return deals.Answer{}, true, nil
	}
	if _, again := p.accepted[w.UUID]; !again {
		if text, later := n.refuses(p, c.Provider, signed, w, head); text != "" {
			if p.Sneaks {
				n.accept(p, c.Provider, signed.Proposal, w.UUID, head)
			}
			return deals.Answer{Text: text, Retryable: later}, false, nil
		}
		n.accept(p, c.Provider, signed.Proposal, w.UUID, head)
	}
	if p.LoseAnswer {
		return deals.Answer{}, false, errors.New("connection reset")
	}
	return deals.Answer{Accepted: true}, false, nil
}

// refuses checks a proposal as a provider does.
func (n *Network) refuses(p *Provider, id deals.ProviderID, signed market.ClientDealProposal, w wire, head deals.Epoch) (text string, later bool) {
	prop := signed.Proposal
	var plain bytes.Buffer
	if err := prop.MarshalCBOR(&plain); err != nil {
		return err.Error(), false
	}
	if want := sign(clientSecret, plain.Bytes()); !want.Equals(&signed.ClientSignature) {
		n.violate("attempt %s is not signed by the client", w.UUID)
		return "invalid signature", false
	}
	if prop.Provider != id.Address() || prop.Client != n.client.Key {
		n.violate("attempt %s is for %s and was sent to %s", w.UUID, prop.Provider, id)
		return "incorrect provider for deal", false
	}
	per := big.Div(big.Mul(p.Price, big.NewIntUnsigned(uint64(prop.PieceSize))), big.NewInt(1<<30))
	switch {
	case p.Reject != "":
		return p.Reject, p.Later
	case prop.StartEpoch <= head:
		return fmt.Sprintf("deal start epoch %d has already elapsed (current epoch: %d)", prop.StartEpoch, head), false
	case prop.EndEpoch-prop.StartEpoch < deals.MinDays*deals.EpochsPerDay || prop.EndEpoch-head > deals.MaxDays*deals.EpochsPerDay:
		return "deal duration out of bounds", false
	case prop.StoragePricePerEpoch.LessThan(per):
		return "storage price per epoch less than asking price", false
	case prop.PieceSize < p.MinPiece:
		return "piece size less than minimum required size", false
	case big.Sub(n.escrow, n.locked(head)).LessThan(prop.TotalStorageFee()):
		return "client available funds in escrow not enough to meet storage cost for deal", false
	}
	return "", false
}

// accept takes a deal on, and plans what the provider will do with it.
func (n *Network) accept(p *Provider, id deals.ProviderID, signed market.DealProposal, u uuid.UUID, head deals.Epoch) {
	d := &deal{uuid: u, signed: signed, provider: id, published: -1, activated: -1, gone: -1}
	for _, other := range p.accepted {
		if mustCID(other.signed) == mustCID(signed) {
			n.violate("proposal %s comes under two uuids", mustCID(signed))
		}
	}
	p.accepted[u] = d
	if p.NeverPublish || p.Forget || p.GiveUp && p.Relents == 0 {
		return
	}
	publish := head + 1 + p.Publish + p.Relents
	n.at(publish, func(at deals.Epoch) { n.publish(d, at) })
	switch {
	case p.NeverSeal:
	case p.SealLate:
		n.at(signed.StartEpoch+10, func(at deals.Epoch) { n.activate(d, at) })
	default:
		n.at(publish+1+p.Seal, func(at deals.Epoch) { n.activate(d, at) })
	}
}

// Status implements deals.Market.
func (n *Network) Status(ctx context.Context, c deals.Contact, id uuid.UUID, signature crypto.Signature) (deals.ProviderStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	head := n.advance()
	p := n.providers[c.Provider]
	if ctx.Err() != nil || p == nil || p.Offline || p.Silent {
		return deals.ProviderStatus{}, errors.New("no route to host")
	}
	if want := sign(clientSecret, deals.StatusBytes(id)); !want.Equals(&signature) {
		n.violate("a question about %s is not signed", id)
	}
	d := p.accepted[id]
	if d == nil || p.Forget {
		return deals.ProviderStatus{Unknown: true}, nil
	}
	s := deals.ProviderStatus{Status: "Processing", Transferring: true, Transferred: true, Proposal: &d.signed}
	if p.OtherProposal {
		other := d.signed
		other.StartEpoch++
		s.Proposal = &other
	}
	if p.GiveUp {
		s.Error = "failed to transfer data"
	}
	if told := !p.Curio || d.isActive(head); told && d.published >= 0 && d.published <= head {
		s.PublishCID, s.DealID = d.message, d.id
	}
	if p.WrongMessage && s.PublishCID.Defined() {
		s.PublishCID = named("publish", []byte("another"))
	}
	if p.WrongID {
		s.PublishCID, s.DealID = cid.Undef, 1
	}
	return s, nil
}

// Proposed are the attempts of which a provider has read a message.
func (n *Network) Proposed() []uuid.UUID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []uuid.UUID
	for id := range n.sent {
		out = append(out, id)
	}
	return out
}

// TransferOf is what a provider was told about where the bytes of an attempt are.
func (n *Network) TransferOf(id uuid.UUID) deals.Transfer {
	n.mu.Lock()
	defer n.mu.Unlock()
	var w wire
	if err := json.Unmarshal(n.sent[id], &w); err != nil {
		return deals.Transfer{}
	}
	return deals.Transfer(w.From)
}

// URLs are where a provider says that it serves.
func (n *Network) URLs(id deals.ProviderID) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string{}, n.providers[id].URLs...)
}
