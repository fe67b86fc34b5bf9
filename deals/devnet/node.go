package devnet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/filecoin-project/go-jsonrpc"
	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/abi"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
)

// view is the chain as one kind of caller sees it: in process as it is, over RPC through the faults.
type view struct {
	n      *Net
	faulty bool
}

// head is the tipset that the view shows as the newest, and a channel that closes when it may have moved.
func (v *view) head() (*entry, <-chan struct{}) {
	lag := abi.ChainEpoch(0)
	if v.faulty {
		lag = v.n.faults.current().Lag
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	e := v.n.head
	for at := e.height(); e.parent != nil && e.height() > at-lag; {
		e = e.parent
	}
	return e, v.n.moved
}

// entry resolves a tipset key; the empty key is the head.
func (v *view) entry(key types.TipSetKey) (*entry, error) {
	if key.IsEmpty() {
		e, _ := v.head()
		return e, nil
	}
	v.n.mu.RLock()
	defer v.n.mu.RUnlock()
	if e, ok := v.n.tipsets[key]; ok {
		return e, nil
	}
	if key == v.n.genesis.Key() {
		return &entry{ts: v.n.genesis}, nil
	}
	return nil, fmt.Errorf("loading tipset %s: not found", key)
}

// state opens the state at a tipset.
func (v *view) state(ctx context.Context, key types.TipSetKey) (*machine, error) {
	e, err := v.entry(key)
	if err != nil {
		return nil, err
	}
	return v.n.stateAt(ctx, e.ts)
}

// methods fills a node with the methods this network serves. What is left nil answers "method not supported", as a
// Lotus gateway does.
func (v *view) methods() *api.FullNodeStruct {
	var node api.FullNodeStruct
	v.commonMethods(&node)
	v.chainMethods(&node)
	v.messageMethods(&node)
	v.stateMethods(&node)
	v.minerMethods(&node)
	v.walletMethods(&node)
	return &node
}

// serve starts the RPC endpoint: websocket and plain HTTP on /rpc/v1.
func (n *Net) serve(ctx context.Context) error {
	n.node = (&view{n: n}).methods()
	checked, ok := api.PermissionedFullAPI((&view{n: n, faulty: true}).methods()).(*api.FullNodeStruct)
	if !ok {
		return fmt.Errorf("wrapping the node: lotus returned another type than it says")
	}
	n.faulty(checked)
	server := jsonrpc.NewServer(jsonrpc.WithServerErrors(api.RPCErrors))
	server.Register("Filecoin", checked)

	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", n.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", n.cfg.Listen, err)
	}
	n.conns = &connections{Listener: listener, open: map[net.Conn]struct{}{}}
	n.addr = listener.Addr()
	mux := http.NewServeMux()
	mux.Handle("/rpc/v1", &auth.Handler{Verify: n.verifyToken, Next: server.ServeHTTP})
	n.rpc = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	n.done.Go(func() {
		if err := n.rpc.Serve(n.conns); err != http.ErrServerClosed {
			n.log.Error("devnet endpoint stopped", "err", err)
		}
	})
	return nil
}
