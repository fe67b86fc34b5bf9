package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// ErrNoAnswer is returned by a handler to close the stream in order, without an answer.
var ErrNoAnswer = errors.New("no answer")

// Handlers answer requests; a protocol whose handler is nil is not served. They are called concurrently, with a context
// that ends when serving stops, and own what they are given. After an error the stream is reset.
type Handlers struct {
	Propose    func(ctx context.Context, from peer.ID, params *DealParams) (*DealResponse, error)
	Status     func(ctx context.Context, from peer.ID, req *DealStatusRequest) (*DealStatusResponse, error)
	Ask        func(ctx context.Context, from peer.ID, req *AskRequest) (*AskResponse, error)
	Transports func(ctx context.Context, from peer.ID) (*QueryResponse, error)
}

// Handle serves the protocols on a host until stop is called, which waits for the handlers that are running.
func Handle(h host.Host, log *slog.Logger, handlers Handlers) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	srv := &server{ctx: ctx, log: log}

	var served []protocol.ID
	serve := func(id protocol.ID, answer func(ctx context.Context, s network.Stream) (any, error)) {
		served = append(served, id)
		h.SetStreamHandler(id, func(s network.Stream) { srv.handle(s, answer) })
	}
	if f := handlers.Propose; f != nil {
		serve(ProposeProtocol, answering(f))
		serve(ProposeProtocolOld, answering(f))
	}
	if f := handlers.Status; f != nil {
		serve(StatusProtocol, answering(f))
	}
	if f := handlers.Ask; f != nil {
		serve(AskProtocol, answering(f))
	}
	if f := handlers.Transports; f != nil {
		serve(TransportsProtocol, func(ctx context.Context, s network.Stream) (any, error) {
			return f(ctx, s.Conn().RemotePeer())
		})
	}
	return func() {
		for _, id := range served {
			h.RemoveStreamHandler(id)
		}
		cancel()
		srv.wait()
	}
}

// answering reads the request that the handler wants.
func answering[Req, Resp any](f func(context.Context, peer.ID, *Req) (*Resp, error)) func(context.Context, network.Stream) (any, error) {
	return func(ctx context.Context, s network.Stream) (any, error) {
		if err := s.SetReadDeadline(time.Now().Add(providerRead)); err != nil {
			return nil, fmt.Errorf("setting a deadline: %w", err)
		}
		req := new(Req)
		if err := Decode(s, req); err != nil {
			return nil, fmt.Errorf("reading the request: %w", err)
		}
		resp, err := f(ctx, s.Conn().RemotePeer(), req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

type server struct {
	ctx context.Context // the lifetime of the streams, which libp2p starts without one
	log *slog.Logger

	mu      sync.Mutex
	running sync.WaitGroup
	stopped bool
}

// begin counts a stream unless serving has stopped.
func (srv *server) begin() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.stopped {
		return false
	}
	srv.running.Add(1)
	return true
}

func (srv *server) wait() {
	srv.mu.Lock()
	srv.stopped = true
	srv.mu.Unlock()
	srv.running.Wait()
}

func (srv *server) handle(s network.Stream, answer func(context.Context, network.Stream) (any, error)) {
	if !srv.begin() {
		_ = s.Reset()
		return
	}
	defer srv.running.Done()
	log := srv.log.With("peer", s.Conn().RemotePeer().String(), "protocol", string(s.Protocol()))
	defer func() {
		if p := recover(); p != nil {
			log.Error("answering a peer panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			_ = s.Reset()
		}
	}()
	// Stopping wakes a handler that still reads its request.
	cancel := context.AfterFunc(srv.ctx, func() { _ = s.Reset() })
	defer cancel()

	err := respond(srv.ctx, s, answer)
	switch {
	case err == nil || errors.Is(err, ErrNoAnswer):
		_ = s.Close()
	default:
		log.Debug("answering a peer", "err", err)
		_ = s.Reset()
	}
}

func respond(ctx context.Context, s network.Stream, answer func(context.Context, network.Stream) (any, error)) error {
	resp, err := answer(ctx, s)
	if err != nil {
		return err
	}
	msg, err := Encode(resp)
	if err != nil {
		return err
	}
	if err := s.SetWriteDeadline(time.Now().Add(providerWrite)); err != nil {
		return fmt.Errorf("setting a deadline: %w", err)
	}
	if _, err := s.Write(msg); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}
