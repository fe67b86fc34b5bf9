package mk12_test

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/libp2p/go-libp2p/core/network"
	mocknet "github.com/libp2p/go-libp2p/p2p/net/mock"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// FuzzAnswers has a provider answer anything to everything.
func FuzzAnswers(f *testing.F) {
	net, err := mocknet.FullMeshConnected(2)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { net.Close() })
	hosts := net.Hosts()
	var answer atomic.Pointer[[]byte]
	say := func(s network.Stream) {
		_, _ = s.Write(*answer.Load())
		_ = s.Close()
	}
	hosts[1].SetStreamHandler(wire.ProposeProtocol, say)
	hosts[1].SetStreamHandler(wire.StatusProtocol, say)
	hosts[1].SetStreamHandler(wire.AskProtocol, say)
	m := mk12.New(hosts[0], mk12.Config{AllowPrivate: true})
	contact := deals.Contact{Provider: provider, PeerID: hosts[1].ID().String(), Addrs: []string{hosts[1].Addrs()[0].String()}}
	id := uuid.MustParse("11111111-2222-3333-4444-555555555555")
	message := composed(f, m, id)

	d := wire.DealStatus{Status: "Sealed", Proposal: signed(f).Proposal, SignedProposalCid: root, PublishCid: &root, ChainDealID: 5}
	for _, sample := range []any{
		&wire.DealResponse{Message: "deal has the same uuid as deal"},
		&wire.DealStatusResponse{DealUUID: id, DealStatus: &d, TransferSize: 5, NBytesReceived: 5},
		&wire.DealStatusResponse{DealUUID: id, Error: "failed to get sealed deal status"},
		&wire.AskResponse{},
	} {
		raw, err := wire.Encode(sample)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		answer.Store(&raw)
		a, err := m.Propose(t.Context(), contact, message)
		if errors.Is(err, deals.ErrNotSent) {
			t.Errorf("sent, and called unsent: %v", err)
		}
		if !utf8.ValidString(a.Text) || a.Accepted && a.Retryable {
			t.Errorf("%+v", a)
		}
		s, err := m.Status(t.Context(), contact, id, crypto.Signature{Type: crypto.SigTypeSecp256k1, Data: []byte("x")})
		if s.Unknown && (s.Status != "" || s.Error != "" || s.Transferred || s.Proposal != nil) || s.Transferred && !s.Transferring ||
			err != nil && s.Unknown || !utf8.ValidString(s.Status+s.Error) || bytes.ContainsAny([]byte(s.Status+s.Error), "\x00\x1b") {
			t.Errorf("%+v, %v", s, err)
		}
		ask, err := m.Ask(t.Context(), contact)
		if err == nil && (ask.Price.Sign() < 0 || ask.VerifiedPrice.Sign() < 0 || ask.MinPiece > ask.MaxPiece || len(ask.Signed) == 0) {
			t.Errorf("%+v", ask)
		}
	})
}
