package sp

import (
	"context"
	"fmt"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// askTerm is for how many epochs an ask holds: ten years, as Curio's.
const askTerm = 10 * 365 * 2880

func (p *Provider) handlers() wire.Handlers {
	return wire.Handlers{Propose: p.propose, Status: p.status, Ask: p.ask, Transports: p.transports}
}

func (p *Provider) propose(ctx context.Context, from peer.ID, params *wire.DealParams) (*wire.DealResponse, error) {
	log := p.log.With("deal", params.DealUUID.String(), "peer", from.String())
	if _, ok := p.faults.hit(ProposeHang); ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, ok := p.faults.hit(ProposeClose); ok {
		return nil, wire.ErrNoAnswer
	}
	if f, ok := p.faults.hit(Reject); ok {
		return &wire.DealResponse{Message: f.Text}, nil
	}
	if r := p.judge(ctx, params); r != "" {
		log.Info("a proposal was refused", "reason", string(r))
		return &wire.DealResponse{Message: string(r)}, nil
	}
	if _, ok := p.faults.hit(AcceptForget); ok {
		return &wire.DealResponse{Accepted: true}, nil
	}
	d, err := p.newDeal(from, params)
	if err != nil {
		return nil, err
	}
	r, err := p.accept(d)
	if err != nil {
		return nil, err
	}
	if r != "" {
		log.Info("a proposal was refused", "reason", string(r))
		return &wire.DealResponse{Message: string(r)}, nil
	}
	log.Info("a deal was accepted", "piece", d.proposal().PieceCID.String(), "size", d.transferSize())
	p.poke()
	return p.answerAccepted(ctx)
}

// answerAccepted is what the client hears after its deal was stored.
func (p *Provider) answerAccepted(ctx context.Context) (*wire.DealResponse, error) {
	if _, ok := p.faults.hit(AcceptClose); ok {
		return nil, wire.ErrNoAnswer
	}
	if _, ok := p.faults.hit(AcceptReset); ok {
		return nil, fmt.Errorf("%s", AcceptReset)
	}
	if f, ok := p.faults.hit(AcceptLate); ok {
		if err := wait(ctx, orDefault(time.Duration(f.Delay), 70*time.Second)); err != nil {
			return nil, err
		}
	}
	return &wire.DealResponse{Accepted: true}, nil
}

func (p *Provider) newDeal(from peer.ID, params *wire.DealParams) (*Deal, error) {
	message, err := wire.Encode(params)
	if err != nil {
		return nil, err
	}
	d := &Deal{
		UUID: params.DealUUID, Message: message, Peer: from.String(),
		Accepted: p.cfg.Now().UTC(), Stage: Accepted, Since: p.height(),
	}
	return d, d.decode()
}

func (p *Provider) ask(ctx context.Context, _ peer.ID, req *wire.AskRequest) (*wire.AskResponse, error) {
	if _, ok := p.faults.hit(AskHang); ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, ok := p.faults.hit(AskNone); ok || req.Miner != p.cfg.Miner {
		return &wire.AskResponse{}, nil
	}
	ask := p.effectiveAsk()
	if _, ok := p.faults.hit(AskOther); ok {
		other, err := address.NewIDAddress(999_999)
		if err != nil {
			return nil, fmt.Errorf("making an address: %w", err)
		}
		ask.Miner = other
	}
	signed, err := wire.AskBytes(&ask)
	if err != nil {
		return nil, err
	}
	if _, ok := p.faults.hit(AskForged); ok {
		signed = append(signed, 0)
	}
	sig, err := p.sign(ctx, signed)
	if err != nil {
		return nil, err
	}
	resp := &wire.AskResponse{Ask: &wire.SignedStorageAsk{Ask: &ask, Signature: sig}}
	if _, ok := p.faults.hit(AskUnsigned); ok {
		resp.Ask.Signature = nil
	}
	return resp, nil
}

// sign uses the worker's key.
func (p *Provider) sign(ctx context.Context, data []byte) (*crypto.Signature, error) {
	key, err := p.node.StateAccountKey(ctx, p.cfg.Worker, types.EmptyTSK)
	if err != nil {
		return nil, fmt.Errorf("looking up the worker's key: %w", err)
	}
	sig, err := p.node.WalletSign(ctx, key, data)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return sig, nil
}

// effectiveAsk is what the provider asks and judges by.
func (p *Provider) effectiveAsk() wire.StorageAsk {
	p.mu.Lock()
	a, since, seq := p.cfg.Ask, p.askSince, p.askSeq
	p.mu.Unlock()
	ask := wire.StorageAsk{
		Price: a.Price, VerifiedPrice: a.VerifiedPrice, MinPieceSize: a.MinPieceSize, MaxPieceSize: a.MaxPieceSize,
		Miner: p.cfg.Miner, Timestamp: since, Expiry: since + askTerm, SeqNo: seq,
	}
	if f, ok := p.faults.hit(AskPrice); ok {
		price, err := big.FromString(orDefault(f.Text, "1000000000000000000"))
		if err == nil {
			ask.Price, ask.VerifiedPrice = price, price
		}
	}
	if f, ok := p.faults.hit(AskMinimum); ok {
		ask.MinPieceSize = abi.PaddedPieceSize(orDefault(f.Bytes, 16<<30))
		ask.MaxPieceSize = max(ask.MaxPieceSize, ask.MinPieceSize)
	}
	return ask
}

func (p *Provider) transports(context.Context, peer.ID) (*wire.QueryResponse, error) {
	libp2p, http := p.net.addrs()
	return &wire.QueryResponse{Protocols: []wire.Protocol{
		{Name: "libp2p", Addresses: raw(libp2p)},
		{Name: "http", Addresses: raw(http)},
	}}, nil
}

func raw(addrs []multiaddr.Multiaddr) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		out = append(out, a.Bytes())
	}
	return out
}

// status answers in the manner of the style. Boost checks the signature, Curio does not.
func (p *Provider) status(ctx context.Context, _ peer.ID, req *wire.DealStatusRequest) (*wire.DealStatusResponse, error) {
	if _, ok := p.faults.hit(StatusHang); ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if f, ok := p.faults.hit(StatusError); ok {
		return &wire.DealStatusResponse{DealUUID: req.DealUUID, Error: orDefault(f.Text, "internal error")}, nil
	}
	d := p.deal(req.DealUUID)
	if _, ok := p.faults.hit(StatusForgotten); ok {
		d = nil
	}
	if p.cfg.Style == Curio {
		if d == nil || d.Stage == Failed && !d.published() {
			return &wire.DealStatusResponse{DealUUID: req.DealUUID, Error: "failed to get sealed deal status"}, nil
		}
		return p.lie(d, curioStatus(d)), nil
	}
	if d == nil {
		return &wire.DealStatusResponse{DealUUID: req.DealUUID, Error: fmt.Sprintf("no storage deal found with deal UUID %s", req.DealUUID)}, nil
	}
	valid, err := p.verify(ctx, d.proposal().Client, wire.StatusBytes(req.DealUUID), &req.Signature)
	if err != nil {
		p.log.Warn("verifying a status request", "err", err)
		return &wire.DealStatusResponse{
			DealUUID: req.DealUUID, Error: fmt.Sprintf("failed to get account key for client addr %s", d.proposal().Client),
		}, nil
	}
	if !valid {
		return &wire.DealStatusResponse{DealUUID: req.DealUUID, Error: "signature verification failed"}, nil
	}
	return p.lie(d, boostStatus(d, p.received(d))), nil
}

// boostStatus names the checkpoint that was reached last, whatever happened after it.
func boostStatus(d *Deal, received int64) *wire.DealStatusResponse {
	resp := baseStatus(d)
	s := resp.DealStatus
	s.Status, s.SealingStatus = boostCheckpoint(d)
	s.Error = d.Error
	if d.published() {
		publish := d.Publish.CID
		s.PublishCid = &publish
	}
	s.ChainDealID = d.DealID
	resp.TransferSize, resp.NBytesReceived = d.params.Transfer.Size, uint64(received)
	return resp
}

func boostCheckpoint(d *Deal) (status, sealing string) {
	switch d.Stage {
	case Accepted:
		return "Accepted", ""
	case Transferred:
		return "Transferred", ""
	case Published:
		return "Published", ""
	case PublishConfirmed:
		return "PublishConfirmed", ""
	case AddedPiece:
		if d.Indexed {
			return "IndexedAndAnnounced", "WaitSeed"
		}
		return "AddedPiece", "PreCommit1"
	case Sealed:
		return "IndexedAndAnnounced", "Proving"
	case Failed, Ended, Complete:
		if d.Stage == Ended {
			return "Complete", "Removed"
		}
		return "Complete", "Proving"
	}
	return "Complete", ""
}

// curioStatus hides everything that happens between acceptance and the end of sealing.
func curioStatus(d *Deal) *wire.DealStatusResponse {
	resp := baseStatus(d)
	s := resp.DealStatus
	resp.TransferSize, resp.NBytesReceived = 1, 1
	s.Status, s.SealingStatus = "Processing", "Not assigned to sector"
	s.Error = d.Error
	if d.Stage == Complete || d.Stage == Ended {
		s.Status, s.SealingStatus = "Sealed", "Sealed and Indexed"
		publish := d.Publish.CID
		s.PublishCid, s.ChainDealID = &publish, d.DealID
	}
	return resp
}

func baseStatus(d *Deal) *wire.DealStatusResponse {
	return &wire.DealStatusResponse{
		DealUUID: d.UUID, IsOffline: d.params.IsOffline,
		DealStatus: &wire.DealStatus{Proposal: *d.proposal(), SignedProposalCid: d.signedCID},
	}
}

// lie applies the faults of the status protocol.
func (p *Provider) lie(d *Deal, resp *wire.DealStatusResponse) *wire.DealStatusResponse {
	s := resp.DealStatus
	if f, ok := p.faults.hit(StatusUnknown); ok {
		s.Status, s.SealingStatus = orDefault(f.Text, "Frobnicating"), ""
	}
	if _, ok := p.faults.hit(StatusProcessing); ok {
		s.Status, s.SealingStatus, s.PublishCid, s.ChainDealID = "Processing", "Not assigned to sector", nil, 0
	}
	if _, ok := p.faults.hit(StatusSealed); ok {
		s.Status, s.SealingStatus = "Sealed", "Sealed and Indexed"
	}
	if f, ok := p.faults.hit(StatusWrongID); ok {
		s.ChainDealID = abi.DealID(orDefault(f.Number, int64(d.DealID)+1))
	}
	if _, ok := p.faults.hit(StatusOther); ok {
		if other := p.anotherDeal(d.UUID); other != nil {
			s.Proposal, s.SignedProposalCid, s.ChainDealID = *other.proposal(), other.signedCID, other.DealID
			if other.published() {
				publish := other.Publish.CID
				s.PublishCid = &publish
			}
		}
	}
	if f, ok := p.faults.hit(StatusFailed); ok {
		s.Error = orDefault(f.Text, "transfer failed")
	}
	return resp
}

// anotherDeal finds a deal to confuse this one with, best one that is on chain.
func (p *Provider) anotherDeal(id uuid.UUID) (found *Deal) {
	for _, d := range p.Deals() {
		if d.UUID != id && (found == nil || d.DealID > found.DealID) {
			found = d
		}
	}
	return found
}
