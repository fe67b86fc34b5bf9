package chain

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-jsonrpc"
	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/filecoin-project/go-state-types/network"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
)

// node is what we ask of Lotus: the methods of api.FullNode that we use, under their names. Results that are values
// there are pointers here, because null and the zero value are not the same answer.
type node struct {
	Version    func(context.Context) (*api.APIVersion, error)
	AuthVerify func(context.Context, string) (*[]auth.Permission, error)

	ChainNotify             func(context.Context) (<-chan []*api.HeadChange, error)
	ChainHead               func(context.Context) (*types.TipSet, error)
	ChainGetGenesis         func(context.Context) (*types.TipSet, error)
	ChainGetTipSetByHeight  func(context.Context, abi.ChainEpoch, types.TipSetKey) (*types.TipSet, error)
	ChainGetFinalizedTipSet func(context.Context) (*types.TipSet, error)
	ChainGetMessage         func(context.Context, cid.Cid) (*types.Message, error)
	ChainReadObj            func(context.Context, cid.Cid) (*[]byte, error)

	StateNetworkName                  func(context.Context) (*string, error)
	StateNetworkVersion               func(context.Context, types.TipSetKey) (*network.Version, error)
	StateGetActor                     func(context.Context, address.Address, types.TipSetKey) (*types.Actor, error)
	StateLookupID                     func(context.Context, address.Address, types.TipSetKey) (*address.Address, error)
	StateAccountKey                   func(context.Context, address.Address, types.TipSetKey) (*address.Address, error)
	StateMinerInfo                    func(context.Context, address.Address, types.TipSetKey) (*api.MinerInfo, error)
	StateDealProviderCollateralBounds func(context.Context, abi.PaddedPieceSize, bool, types.TipSetKey) (*api.DealCollateralBounds, error)
	StateMarketBalance                func(context.Context, address.Address, types.TipSetKey) (*api.MarketBalance, error)
	StateMarketStorageDeal            func(context.Context, abi.DealID, types.TipSetKey) (*api.MarketDeal, error)
	StateMarketProposalPending        func(context.Context, cid.Cid, types.TipSetKey) (*bool, error)
	StateVerifiedClientStatus         func(context.Context, address.Address, types.TipSetKey) (*abi.StoragePower, error)
	StateSearchMsg                    func(context.Context, types.TipSetKey, cid.Cid, abi.ChainEpoch, bool) (*api.MsgLookup, error)

	WalletSign    func(context.Context, address.Address, []byte) (*crypto.Signature, error)
	WalletVerify  func(context.Context, address.Address, []byte, *crypto.Signature) (*bool, error)
	WalletBalance func(context.Context, address.Address) (*big.Int, error)

	MpoolPushMessage  func(context.Context, *types.Message, *api.MessageSendSpec) (*types.SignedMessage, error)
	GetActorEventsRaw func(context.Context, *types.ActorEventFilter) (*[]*types.ActorEvent, error)
}

// A session is one connection to a node.
type session struct {
	node node
	ctx  context.Context //nolint:containedctx // the life of the connection, which calls outlive in no case

	slots     chan struct{} // a call holds one
	calls     *atomic.Int64
	timeout   time.Duration
	abandoned atomic.Int64 // calls given up that the node has not answered yet
	fail      func(error)  // ends the session
}

// silence is how long a connection may carry nothing, not even an answer to a ping, before it counts as lost.
const silence = 30 * time.Second

// maxAbandoned calls without an answer are a connection that is not worth keeping.
const maxAbandoned = 64

// dial connects. The session ends with ctx; the function returned closes the connection, and has to be called once.
func dial(ctx context.Context, cfg Config, slots chan struct{}, calls *atomic.Int64) (*session, func(), error) {
	s := &session{slots: slots, calls: calls, timeout: cfg.Timeout}
	var fail context.CancelCauseFunc
	s.ctx, fail = context.WithCancelCause(ctx)
	s.fail = func(err error) { fail(err) }

	header := http.Header{}
	if cfg.Token != "" {
		header.Set("Authorization", "Bearer "+cfg.Token)
	}
	type dialed struct {
		closer jsonrpc.ClientCloser
		err    error
	}
	result := make(chan dialed)
	go func() {
		// go-jsonrpc dials without a context, so this may come too late. Nor does it close the connection when its
		// context ends, so that is only done by its closer.
		closer, err := jsonrpc.NewMergeClient(context.WithoutCancel(ctx), cfg.URL, "Filecoin", []any{&s.node}, header,
			jsonrpc.WithErrors(api.RPCErrors), jsonrpc.WithNoReconnect(), jsonrpc.WithPingInterval(silence/6), jsonrpc.WithTimeout(silence))
		select {
		case result <- dialed{closer, err}:
		case <-s.ctx.Done():
			if err == nil {
				closer()
			}
		}
	}()
	timer := time.NewTimer(cfg.Timeout)
	defer timer.Stop()
	var err error
	select {
	case d := <-result:
		if d.err == nil {
			return s, func() { hangUp(d.closer); fail(errHungUp) }, nil
		}
		err = d.err
	case <-timer.C:
		err = fmt.Errorf("no answer within %s", cfg.Timeout)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	fail(err)
	return nil, nil, fmt.Errorf("connecting to the node: %w: %w", deals.ErrChain, err)
}

// hangUp closes a connection. One that is stuck in a write is left to the system: it must not keep us from the next.
func hangUp(closer jsonrpc.ClientCloser) {
	closed := make(chan struct{})
	go func() {
		closer()
		close(closed)
	}()
	timer := time.NewTimer(goodbye)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// goodbye is how long the end of a connection is waited for.
const goodbye = 5 * time.Second

var errHungUp = errors.New("the connection was closed")

// call asks the node and takes null for an error.
func call[T any](ctx context.Context, s *session, method string, f func(context.Context, *node) (*T, error)) (*T, error) {
	v, err := callNull(ctx, s, s.timeout, method, f)
	if err == nil && v == nil {
		return nil, fmt.Errorf("asking the node for %s: %w: the answer is null", method, deals.ErrChain)
	}
	return v, err
}

// callNull asks the node where null is an answer.
//
// The call runs apart, because go-jsonrpc waits for the node's answer also when the context has ended. Errors that are
// the node's own answer do not wrap deals.ErrChain.
func callNull[T any](ctx context.Context, s *session, timeout time.Duration, method string, f func(context.Context, *node) (*T, error)) (*T, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to ask the node for %s: %w", method, context.Cause(ctx))
	case <-s.ctx.Done():
		return nil, s.lost(method)
	}
	s.calls.Add(1)
	type answer struct {
		v   *T
		err error
	}
	callCtx, cancel := context.WithTimeout(ctx, timeout)
	answers := make(chan answer, 1)
	go func() {
		v, err := f(callCtx, &s.node)
		answers <- answer{v, err}
	}()
	defer func() {
		cancel()
		<-s.slots
	}()
	select {
	case a := <-answers:
		if a.err == nil {
			return a.v, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("asking the node for %s: %w", method, context.Cause(ctx))
		}
		if ofConnection(a.err) {
			return nil, fmt.Errorf("asking the node for %s: %w: %w", method, deals.ErrChain, a.err)
		}
		return nil, fmt.Errorf("asking the node for %s: %w", method, a.err)
	case <-s.ctx.Done():
		return nil, s.lost(method)
	case <-callCtx.Done():
	}
	if s.abandoned.Add(1) > maxAbandoned {
		s.fail(errors.New("the node has stopped answering"))
	}
	go func() {
		select {
		case <-answers:
			s.abandoned.Add(-1)
		case <-s.ctx.Done():
		}
	}()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("asking the node for %s: %w", method, context.Cause(ctx))
	}
	return nil, fmt.Errorf("asking the node for %s: %w: no answer within %s", method, deals.ErrChain, timeout)
}

// ended is why the session is over.
func (s *session) ended() error { return context.Cause(s.ctx) }

func (s *session) lost(method string) error {
	return fmt.Errorf("asking the node for %s: %w: %w", method, deals.ErrChain, s.ended())
}

// ofConnection tells errors of the transport from answers of the node.
func ofConnection(err error) bool {
	_, conn := errors.AsType[*jsonrpc.RPCConnectionError](err)
	_, client := errors.AsType[*jsonrpc.ErrClient](err)
	return conn || client
}

// isAbsent tells whether the node has no such method, or has it switched off.
func isAbsent(err error) bool {
	const methodNotFound = -32601
	rpc, ok := errors.AsType[*jsonrpc.JSONRPCError](err)
	if !ok {
		return false
	}
	return rpc.Code == methodNotFound || strings.Contains(rpc.Message, "not supported") ||
		strings.Contains(rpc.Message, "not found") && strings.Contains(rpc.Message, "method")
}

// isNoActor tells whether the chain has no actor under the address that was asked for. Lotus types this error for some
// methods only.
func isNoActor(err error) bool {
	if _, none := errors.AsType[*api.ErrActorNotFound](err); none {
		return true
	}
	rpc, ok := errors.AsType[*jsonrpc.JSONRPCError](err)
	return ok && strings.HasSuffix(rpc.Message, types.ErrActorNotFound.Error())
}

// isAnswer tells whether an error is what the node itself said.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*jsonrpc.JSONRPCError](err)
	return ok
}
