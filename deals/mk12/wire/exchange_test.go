package wire_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	cborutil "github.com/filecoin-project/go-cbor-util"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-shipyard/boostly"
	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/deals/mk12/wire"
)

func newHost(t *testing.T) host.Host {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func infoOf(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

func serve(t *testing.T, handlers wire.Handlers) peer.AddrInfo {
	t.Helper()
	h := newHost(t)
	stop := wire.Handle(h, slog.New(slog.DiscardHandler), handlers)
	t.Cleanup(stop)
	return infoOf(h)
}

func TestOurClientAndServerSpeak(t *testing.T) {
	client := newHost(t)
	signed := &wire.SignedStorageAsk{Ask: sampleAsk(), Signature: &sampleParams().ClientDealProposal.ClientSignature}
	var proposed *wire.DealParams
	var from peer.ID
	to := serve(t, wire.Handlers{
		Propose: func(_ context.Context, who peer.ID, p *wire.DealParams) (*wire.DealResponse, error) {
			proposed, from = p, who
			return &wire.DealResponse{Accepted: true}, nil
		},
		Status: func(_ context.Context, _ peer.ID, req *wire.DealStatusRequest) (*wire.DealStatusResponse, error) {
			resp := sampleStatus()
			resp.DealUUID = req.DealUUID
			return resp, nil
		},
		Ask: func(_ context.Context, _ peer.ID, req *wire.AskRequest) (*wire.AskResponse, error) {
			if req.Miner != sampleAsk().Miner {
				return &wire.AskResponse{}, nil
			}
			return &wire.AskResponse{Ask: signed}, nil
		},
		Transports: func(context.Context, peer.ID) (*wire.QueryResponse, error) { return sampleTransports(), nil },
	})

	resp, err := wire.Propose(t.Context(), client, to, sampleParams())
	if err != nil || !resp.Accepted {
		t.Fatalf("proposing: %+v, %v", resp, err)
	}
	if diff := cmp.Diff(sampleParams(), proposed, equal); diff != "" || from != client.ID() {
		t.Errorf("from %s; proposal (-sent +got):\n%s", from, diff)
	}
	if _, err := wire.Status(t.Context(), client, to, &wire.DealStatusRequest{DealUUID: sampleParams().DealUUID}); err == nil {
		t.Error("a request without a signature was encoded")
	}
	status, err := wire.Status(t.Context(), client, to, &wire.DealStatusRequest{
		DealUUID: sampleParams().DealUUID, Signature: sampleParams().ClientDealProposal.ClientSignature,
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleStatus(), status, equal); diff != "" {
		t.Errorf("status (-sent +got):\n%s", diff)
	}
	ask, err := wire.Ask(t.Context(), client, to, sampleAsk().Miner)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(signed, ask, equal); diff != "" {
		t.Errorf("ask (-sent +got):\n%s", diff)
	}
	if ask, err := wire.Ask(t.Context(), client, to, sampleParams().ClientDealProposal.Proposal.Client); ask != nil || err != nil {
		t.Errorf("the ask of another miner is %+v, %v", ask, err)
	}
	transports, err := wire.Transports(t.Context(), client, to)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleTransports(), transports, equal); diff != "" {
		t.Errorf("transports (-sent +got):\n%s", diff)
	}
}

// boostly's client is what singularity and others use: the server must satisfy it.
func TestBoostlyClientIsServed(t *testing.T) {
	client := newHost(t)
	wellFormed := &wire.QueryResponse{Protocols: sampleTransports().Protocols[:1]}
	to := serve(t, wire.Handlers{
		Propose: func(_ context.Context, _ peer.ID, p *wire.DealParams) (*wire.DealResponse, error) {
			if diff := cmp.Diff(sampleParams(), p, equal); diff != "" {
				t.Errorf("proposal (-sent +got):\n%s", diff)
			}
			return &wire.DealResponse{Message: "no"}, nil
		},
		Status: func(context.Context, peer.ID, *wire.DealStatusRequest) (*wire.DealStatusResponse, error) {
			return sampleStatus(), nil
		},
		Transports: func(context.Context, peer.ID) (*wire.QueryResponse, error) { return wellFormed, nil },
	})
	if err := client.Connect(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	// boostly passes the message by value, for which cborutil knows no encoder: so do as it does, with a pointer.
	s, err := client.NewStream(t.Context(), to.ID, boostly.FilStorageMarketProtocol_1_2_0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := cborutil.WriteCborRPC(s, sampleParams()); err != nil {
		t.Fatal(err)
	}
	var resp boostly.DealResponse
	if err := cborutil.ReadCborRPC(s, &resp); err != nil || resp.Message != "no" {
		t.Fatalf("boostly read %+v, %v", resp, err)
	}
	sign := func(context.Context, []byte) (*crypto.Signature, error) {
		return &sampleParams().ClientDealProposal.ClientSignature, nil
	}
	status, err := boostly.GetDealStatus(t.Context(), client, to.ID, sampleParams().DealUUID, sign)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleStatus(), status, equal); diff != "" {
		t.Errorf("boostly's status (-sent +got):\n%s", diff)
	}
	transports, err := boostly.QueryTransports(t.Context(), client, to.ID)
	if err != nil {
		t.Fatal(err)
	}
	if p := transports.Protocols; len(p) != 1 || p[0].Name != "libp2p" || p[0].Addresses[0].String() != "/ip4/192.0.2.1/tcp/24001" {
		t.Errorf("boostly's transports are %+v", transports)
	}
}

// A provider built like Boost and Curio: cborutil on the bare stream, proposals of 1.2.0 only.
func TestOurClientSpeaksToAProviderOfTheField(t *testing.T) {
	client, provider := newHost(t), newHost(t)
	provider.SetStreamHandler(wire.ProposeProtocolOld, func(s network.Stream) {
		defer s.Close()
		var params boostly.DealParams
		if err := params.UnmarshalCBOR(s); err != nil {
			t.Errorf("the provider reads: %v", err)
		}
		if diff := cmp.Diff(*sampleParams(), params, equal); diff != "" {
			t.Errorf("proposal (-sent +got):\n%s", diff)
		}
		if err := cborutil.WriteCborRPC(s, &boostly.DealResponse{Accepted: true}); err != nil {
			t.Errorf("the provider writes: %v", err)
		}
	})
	resp, err := wire.Propose(t.Context(), client, infoOf(provider), sampleParams())
	if err != nil || !resp.Accepted {
		t.Errorf("proposing: %+v, %v", resp, err)
	}
}

// notSent tells what the caller must conclude: nothing happened, or nobody knows.
func notSent(err error) bool {
	var e *wire.NotSentError
	return errors.As(err, &e)
}

func TestOnlyAnUnsentProposalIsReportedAsUnsent(t *testing.T) {
	client := newHost(t)
	nobody := newHost(t)
	gone := infoOf(nobody)
	nobody.Close()

	_, err := wire.Propose(t.Context(), client, gone, sampleParams())
	if !notSent(err) {
		t.Errorf("nobody listens: %v", err)
	}
	_, err = wire.Propose(t.Context(), client, peer.AddrInfo{ID: client.ID(), Addrs: infoOf(newHost(t)).Addrs}, sampleParams())
	if !notSent(err) {
		t.Errorf("dialling ourselves: %v", err)
	}
	impostor := infoOf(newHost(t))
	impostor.ID = gone.ID
	if _, err = wire.Propose(t.Context(), client, impostor, sampleParams()); !notSent(err) {
		t.Errorf("another peer answers there: %v", err)
	}
	if _, err = wire.Propose(t.Context(), client, infoOf(newHost(t)), sampleParams()); !notSent(err) {
		t.Errorf("the protocol is not served: %v", err)
	}
	big := sampleParams()
	big.Transfer.Params = bytes.Repeat([]byte("x"), wire.MaxMessage)
	if _, err = wire.Propose(t.Context(), client, serve(t, wire.Handlers{}), big); !notSent(err) || !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}

	for name, answer := range map[string]error{"closed": wire.ErrNoAnswer, "reset": io.ErrUnexpectedEOF} {
		received := make(chan struct{}, 1)
		to := serve(t, wire.Handlers{Propose: func(context.Context, peer.ID, *wire.DealParams) (*wire.DealResponse, error) {
			received <- struct{}{}
			return nil, answer
		}})
		_, err := wire.Propose(t.Context(), client, to, sampleParams())
		if err == nil || notSent(err) {
			t.Errorf("%s after the request was read: %v", name, err)
		}
		<-received
	}
}

// libp2p remembers a failed dial for seconds to minutes; a caller that asks again means it.
func TestAPeerThatIsBackIsReachedAtOnce(t *testing.T) {
	client, gone := newHost(t), newHost(t)
	to := infoOf(gone)
	key := gone.Peerstore().PrivKey(gone.ID())
	gone.Close()
	if _, err := wire.Transports(t.Context(), client, to); err == nil {
		t.Fatal("nobody answered")
	}
	back, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrs(to.Addrs...), libp2p.DisableRelay())
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	stop := wire.Handle(back, slog.New(slog.DiscardHandler), wire.Handlers{
		Transports: func(context.Context, peer.ID) (*wire.QueryResponse, error) { return sampleTransports(), nil },
	})
	defer stop()
	if _, err := wire.Transports(t.Context(), client, to); err != nil {
		t.Error(err)
	}
}

func TestACancelledExchangeEndsAtOnce(t *testing.T) {
	client := newHost(t)
	received := make(chan struct{})
	to := serve(t, wire.Handlers{Propose: func(ctx context.Context, _ peer.ID, _ *wire.DealParams) (*wire.DealResponse, error) {
		close(received)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-received
		cancel()
	}()
	start := time.Now()
	_, err := wire.Propose(ctx, client, to, sampleParams())
	if !errors.Is(err, context.Canceled) || notSent(err) {
		t.Errorf("error is %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestStoppingWaitsForHandlersAndEndsThem(t *testing.T) {
	client, provider := newHost(t), newHost(t)
	received, ended := make(chan struct{}), make(chan struct{})
	stop := wire.Handle(provider, slog.New(slog.DiscardHandler), wire.Handlers{
		Ask: func(ctx context.Context, _ peer.ID, _ *wire.AskRequest) (*wire.AskResponse, error) {
			close(received)
			<-ctx.Done()
			close(ended)
			return nil, ctx.Err()
		},
	})
	failed := make(chan error, 1)
	go func() {
		_, err := wire.Ask(t.Context(), client, infoOf(provider), sampleAsk().Miner)
		failed <- err
	}()
	<-received
	stop()
	select {
	case <-ended:
	default:
		t.Error("stop returned before the handler")
	}
	if err := <-failed; err == nil {
		t.Error("the client got an answer")
	}
}

func TestAPanickingHandlerCostsOneStream(t *testing.T) {
	client := newHost(t)
	calls := 0
	to := serve(t, wire.Handlers{Transports: func(context.Context, peer.ID) (*wire.QueryResponse, error) {
		if calls++; calls == 1 {
			panic("a bug")
		}
		return sampleTransports(), nil
	}})
	if _, err := wire.Transports(t.Context(), client, to); err == nil {
		t.Error("a panic was answered")
	}
	if _, err := wire.Transports(t.Context(), client, to); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

// endless never stops answering, with a map of keys that nobody knows.
type endless struct {
	head, pair *bytes.Reader
	n          int
}

func newEndless() *endless {
	return &endless{
		head: bytes.NewReader([]byte{0xb9, 0x1f, 0xff}), // a map of 8,191 pairs
		pair: bytes.NewReader(append([]byte{0x61, 'x', 0x59, 0x0f, 0xff}, make([]byte, 4095)...)),
	}
}

func (e *endless) Read(p []byte) (int, error) {
	e.n++
	if n, err := e.head.Read(p); err == nil {
		return n, nil
	}
	if e.pair.Len() == 0 {
		e.pair.Seek(0, io.SeekStart)
	}
	return e.pair.Read(p)
}

func TestAnAnswerWithoutEndIsCut(t *testing.T) {
	source := newEndless()
	err := wire.Decode(source, new(wire.DealResponse))
	if err == nil || !strings.Contains(err.Error(), wire.ErrTooLarge.Error()) {
		t.Errorf("error is %v", err)
	}
	if source.n > 1000 {
		t.Errorf("it was read %d times", source.n)
	}
}
