package deals

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// A Receipt says which deals keep a DAG, with what each party has signed. Package receipt checks it without us. It
// travels as Bytes: canonical JSON (RFC 8785), the signature being over the same without its signature. JSON, because
// whoever holds a receipt should be able to read it; RFC 8785, because then every language can check it; and exactly
// these bytes, so that not one of them can change unnoticed.
type Receipt struct {
	Version   int           `json:"version"` // 1
	Service   string        `json:"service"` // how people know who issued it
	Root      string        `json:"root"`    // CID of the DAG
	Piece     ReceiptPiece  `json:"piece"`   // of its CAR, before any provider's least size
	CARSize   int64         `json:"car_size"`
	Deals     []ReceiptDeal `json:"deals"`
	IssuedAt  string        `json:"issued_at"` // RFC 3339, UTC
	Key       string        `json:"key"`       // did:key of the service, Ed25519
	Signature string        `json:"signature,omitempty"`
}

// A ReceiptPiece names the bytes that are stored.
type ReceiptPiece struct {
	CID     string `json:"cid"`      // version 1: the commitment
	CIDv2   string `json:"cid_v2"`   // version 2: with the raw size
	Size    int64  `json:"size"`     // padded
	RawSize int64  `json:"raw_size"` // of the CAR and the zeros after it
}

// A ReceiptDeal is one deal, as it was seen last.
type ReceiptDeal struct {
	Provider       string       `json:"provider"`
	Protocol       string       `json:"protocol"`
	UUID           string       `json:"uuid"`
	Client         string       `json:"client"`              // address of the key that signed
	ClientID       string       `json:"client_id,omitempty"` // the same on chain, when it is known
	Piece          ReceiptPiece `json:"piece"`
	Proposal       []byte       `json:"proposal"`     // CBOR of the ClientDealProposal, with the client's signature
	ProposalCID    string       `json:"proposal_cid"` // of the proposal in it
	StartEpoch     int64        `json:"start_epoch"`
	EndEpoch       int64        `json:"end_epoch"`
	PricePerEpoch  string       `json:"price_per_epoch"` // attoFIL for the whole piece
	Verified       bool         `json:"verified"`
	State          State        `json:"state"`
	DealID         string       `json:"deal_id,omitempty"`
	PublishMessage string       `json:"publish_message,omitempty"`
	Sector         string       `json:"sector,omitempty"`
	SeenAtHeight   int64        `json:"seen_at_height,omitempty"` // of the chain, when the state was seen there
}

const receiptVersion = 1

// ErrNoDeals says that there is nothing to give a receipt for yet.
var ErrNoDeals = errors.New("no deal has been proposed yet")

// NewReceipt makes the receipt of an archive from its attempts, unsigned. Attempts that were refused or came to nothing
// are no part of it. natural is the piece before padding; client is zero when the chain could not be asked.
func NewReceipt(root cid.Cid, natural piece.Piece, client Client, attempts []Attempt) (Receipt, error) {
	r := Receipt{Root: root.String(), Piece: newReceiptPiece(natural), CARSize: natural.CARSize, Deals: []ReceiptDeal{}}
	for _, a := range attempts {
		if !receipted(a) {
			continue
		}
		d, err := newReceiptDeal(a, client)
		if err != nil {
			return Receipt{}, fmt.Errorf("writing the receipt of deal %s: %w", a.UUID, err)
		}
		r.Deals = append(r.Deals, d)
	}
	if len(r.Deals) == 0 {
		return Receipt{}, ErrNoDeals
	}
	return r, nil
}

// Receipt makes the receipt of an archive and has it signed, or returns ErrNoDeals, or ErrNotFound when the archive was
// never wanted. It does not wait for a node that does not answer.
func (s *Service) Receipt(ctx context.Context, w Wish, by *Notary) (Receipt, error) {
	standings, err := s.Standings(ctx, []Wish{w})
	if err != nil {
		return Receipt{}, err
	}
	standing, ok := standings[w]
	if !ok {
		return Receipt{}, fmt.Errorf("writing a receipt for %s: %w", w.Root, ErrNotFound)
	}
	if standing.Piece == nil {
		return Receipt{}, ErrNoDeals
	}
	attempts, err := s.Deals(ctx, w)
	if err != nil {
		return Receipt{}, err
	}
	r, err := NewReceipt(w.Root, *standing.Piece, s.client(ctx), attempts)
	if err != nil {
		return Receipt{}, err
	}
	return by.Sign(r)
}

// client is who pays, or nobody when the node does not say so soon.
func (s *Service) client(ctx context.Context) Client {
	if s.parts.Chain == nil {
		return Client{}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := s.parts.Chain.Client(ctx)
	if err != nil {
		return Client{} // the receipt is as good without the number that the chain has for the key
	}
	return c
}

// receipted tells whether an attempt is worth a receipt: it is alive, or was a deal.
func receipted(a Attempt) bool {
	return len(a.Signed) > 0 && (!a.State.Final() || !a.ActiveAt.IsZero())
}

func newReceiptPiece(p piece.Piece) ReceiptPiece {
	return ReceiptPiece{CID: p.CIDv1.String(), CIDv2: p.CIDv2.String(), Size: int64(p.Size), RawSize: p.RawSize}
}

func newReceiptDeal(a Attempt, client Client) (ReceiptDeal, error) {
	var signed market.ClientDealProposal
	if err := signed.UnmarshalCBOR(bytes.NewReader(a.Signed)); err != nil {
		return ReceiptDeal{}, fmt.Errorf("reading what was signed: %w", err)
	}
	p := signed.Proposal
	d := ReceiptDeal{
		Provider: a.Provider.String(), Protocol: a.Protocol, UUID: a.UUID.String(), Client: p.Client.String(),
		Piece: newReceiptPiece(a.Piece), Proposal: a.Signed, ProposalCID: a.ProposalCID.String(),
		StartEpoch: int64(p.StartEpoch), EndEpoch: int64(p.EndEpoch), PricePerEpoch: p.StoragePricePerEpoch.String(),
		Verified: p.VerifiedDeal, State: a.State, SeenAtHeight: int64(a.Height),
	}
	if client.Key == p.Client {
		d.ClientID = client.ID.String()
	}
	if a.DealID != 0 {
		d.DealID = fmt.Sprint(uint64(a.DealID))
	}
	if a.PublishCID.Defined() && !a.Claimed {
		d.PublishMessage = a.PublishCID.String()
	}
	if !a.ActiveAt.IsZero() {
		d.Sector = fmt.Sprint(uint64(a.Sector))
	}
	return d, nil
}

// Bytes are the receipt as it travels.
func (r Receipt) Bytes() ([]byte, error) { return canonicalJSON(r) }

// ReadReceipt reads a receipt as it travels and checks the service's signature. A line feed after it is allowed, for
// those who keep it in a text file; any other byte that is not as it was issued is an error.
func ReadReceipt(content []byte) (Receipt, error) {
	content = bytes.TrimSuffix(content, []byte("\n"))
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	var r Receipt
	if err := decoder.Decode(&r); err != nil {
		return Receipt{}, fmt.Errorf("reading the receipt: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Receipt{}, errors.New("reading the receipt: something follows it")
	}
	if r.Version != receiptVersion {
		return Receipt{}, fmt.Errorf("reading the receipt: it is of version %d, and %d is known", r.Version, receiptVersion)
	}
	exact, err := r.Bytes()
	if err != nil {
		return Receipt{}, fmt.Errorf("reading the receipt: %w", err)
	}
	if !bytes.Equal(exact, content) {
		return Receipt{}, errors.New("reading the receipt: it is not spelled as it was issued (canonical JSON, RFC 8785)")
	}
	return r, r.checkSignature()
}

func (r Receipt) checkSignature() error {
	key, err := parseKey(r.Key)
	if err != nil {
		return fmt.Errorf("checking the signature of the service: %w", err)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(r.Signature)
	if err != nil {
		return fmt.Errorf("checking the signature of the service: %w", err)
	}
	r.Signature = ""
	signed, err := canonicalJSON(r)
	if err != nil {
		return fmt.Errorf("checking the signature of the service: %w", err)
	}
	if !ed25519.Verify(key, signed, signature) {
		return errors.New("the signature of the service does not fit: the receipt was changed after it was issued")
	}
	return nil
}

// Signed is what the client has signed, as it is in the receipt.
func (d ReceiptDeal) Signed() (market.ClientDealProposal, error) {
	var p market.ClientDealProposal
	in := bytes.NewReader(d.Proposal)
	if err := p.UnmarshalCBOR(in); err != nil {
		return p, fmt.Errorf("reading the proposal: %w", err)
	}
	if in.Len() > 0 {
		return p, errors.New("reading the proposal: something follows it")
	}
	return p, nil
}

// Padded is the size of the piece.
func (p ReceiptPiece) Padded() abi.PaddedPieceSize { return abi.PaddedPieceSize(p.Size) } //nolint:gosec // a size
