package wire

import (
	"context"
	"fmt"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// A NotSentError says that no byte of the request has left, so that the provider cannot have acted on it.
type NotSentError struct {
	Peer peer.ID
	Err  error
}

func (e *NotSentError) Error() string { return fmt.Sprintf("reaching peer %s: %v", e.Peer, e.Err) }

func (e *NotSentError) Unwrap() error { return e.Err }

// Propose sends a proposal and returns the provider's answer. After a NotSentError nothing has happened; after any
// other error the provider may have accepted the deal, and only Status or the chain can tell.
func Propose(ctx context.Context, h host.Host, to peer.AddrInfo, params *DealParams) (*DealResponse, error) {
	resp := &DealResponse{}
	err := exchange(ctx, h, to, params, resp, clientReadResponse, ProposeProtocol, ProposeProtocolOld)
	if err != nil {
		return nil, fmt.Errorf("proposing deal %s: %w", params.DealUUID, err)
	}
	return resp, nil
}

// Status asks a provider for its account of a deal. A response with Error set is an answer, not an error.
func Status(ctx context.Context, h host.Host, to peer.AddrInfo, req *DealStatusRequest) (*DealStatusResponse, error) {
	resp := &DealStatusResponse{}
	if err := exchange(ctx, h, to, req, resp, clientRead, StatusProtocol); err != nil {
		return nil, fmt.Errorf("asking for the status of deal %s: %w", req.DealUUID, err)
	}
	return resp, nil
}

// Ask returns a miner's signed ask, unverified, or nil if the peer does not answer for that miner.
func Ask(ctx context.Context, h host.Host, to peer.AddrInfo, miner address.Address) (*SignedStorageAsk, error) {
	resp := &AskResponse{}
	if err := exchange(ctx, h, to, &AskRequest{Miner: miner}, resp, clientRead, AskProtocol); err != nil {
		return nil, fmt.Errorf("asking %s for its price: %w", miner, err)
	}
	return resp.Ask, nil
}

// Transports returns the ways to retrieve from a provider.
func Transports(ctx context.Context, h host.Host, to peer.AddrInfo) (*QueryResponse, error) {
	resp := &QueryResponse{}
	if err := exchange(ctx, h, to, nil, resp, clientRead, TransportsProtocol); err != nil {
		return nil, fmt.Errorf("asking for transports: %w", err)
	}
	return resp, nil
}

// exchange sends one message, or nothing if req is nil, and reads one. The context bounds all of it.
func exchange(ctx context.Context, h host.Host, to peer.AddrInfo, req, resp any, read time.Duration, protocols ...protocol.ID) error {
	var msg []byte
	if req != nil {
		var err error
		if msg, err = Encode(req); err != nil {
			return &NotSentError{Peer: to.ID, Err: err}
		}
	}
	// Dialled whatever libp2p thinks of earlier failures: when to try again is the caller's to decide, and its back-off
	// would otherwise answer for a provider that is back.
	if err := h.Connect(network.WithForceDirectDial(ctx, "deal protocol"), to); err != nil {
		return &NotSentError{Peer: to.ID, Err: err}
	}
	s, err := h.NewStream(ctx, to.ID, protocols...)
	if err != nil {
		return &NotSentError{Peer: to.ID, Err: err}
	}
	// A stream knows deadlines, not contexts: resetting it wakes whoever reads or writes.
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()

	if err := talk(s, msg, resp, read); err != nil {
		_ = s.Reset()
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("%w (%w)", cause, err)
		}
		return err
	}
	_ = s.Close() // the answer is here; how the stream ends changes nothing
	return nil
}

// A stream is the part of a libp2p stream that talking needs.
type stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

func talk(s stream, msg []byte, resp any, read time.Duration) error {
	if msg != nil {
		if err := s.SetWriteDeadline(time.Now().Add(clientWrite)); err != nil {
			return fmt.Errorf("setting a deadline: %w", err)
		}
		if _, err := s.Write(msg); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	if err := s.SetReadDeadline(time.Now().Add(read)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if err := Decode(s, resp); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
