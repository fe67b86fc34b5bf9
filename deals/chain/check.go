package chain

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/filecoin-project/go-jsonrpc/auth"
	"github.com/filecoin-project/go-state-types/big"
	"github.com/filecoin-project/go-state-types/builtin"
	"github.com/filecoin-project/lotus/api"
	"github.com/filecoin-project/lotus/chain/types"
)

// A Finding is one line of what an operator is told of the node.
type Finding struct {
	What   string
	Detail string
	Advice string // what to do; empty when all is well
	Err    error  // not nil: deals cannot be made
}

// Check looks at everything that deals need of the node, and changes nothing but one signature over a text that means
// nothing. After a finding with an error it goes no further.
func (l *Lotus) Check(ctx context.Context) []Finding {
	s, head, err := l.ready(ctx)
	if err != nil {
		return []Finding{{
			What: "node", Err: err, Detail: err.Error(),
			Advice: "make the node run and sync, and check its URL, token, network and wallet in the settings",
		}}
	}
	checks := []func(context.Context, *session, tip) Finding{
		l.checkNode, l.checkToken, l.checkHeads, l.checkWallet, l.checkFunds, l.checkTree, l.checkEvents,
	}
	var found []Finding
	for _, check := range checks {
		f := check(ctx, s, head)
		if f.Err != nil {
			f.Detail = f.Err.Error()
		}
		if found = append(found, f); f.Err != nil {
			break
		}
	}
	return found
}

func (l *Lotus) checkNode(ctx context.Context, s *session, _ tip) Finding {
	v, err := call(ctx, s, "Version", func(ctx context.Context, n *node) (*api.APIVersion, error) { return n.Version(ctx) })
	if err != nil {
		return Finding{What: "node", Err: err, Advice: "give it a token with the permission read"}
	}
	return Finding{What: "node", Detail: fmt.Sprintf("%s, on network %s", v.Version, l.cfg.Network)}
}

func (l *Lotus) checkToken(ctx context.Context, s *session, _ tip) Finding {
	f := Finding{What: "token"}
	if l.cfg.Token == "" {
		f.Detail = "none, and the node asks for none"
		return f
	}
	allowed, err := call(ctx, s, "AuthVerify", func(ctx context.Context, n *node) (*[]auth.Permission, error) {
		return n.AuthVerify(ctx, l.cfg.Token)
	})
	if err != nil {
		// That it may sign was seen when the connection was made.
		f.Detail = "it reads and signs; the node does not tell what else it may"
		return f
	}
	f.Detail = fmt.Sprintf("it may %v", *allowed)
	if slices.Contains(*allowed, api.PermAdmin) {
		f.Advice = "read and sign are enough: a token that may also administer the node need not lie here"
	}
	return f
}

func (l *Lotus) checkHeads(ctx context.Context, s *session, head tip) Finding {
	f := Finding{What: "head"}
	final, err := l.finalTip(ctx, s, head)
	if err != nil {
		f.Err = err
		return f
	}
	l.mu.Lock()
	var lag time.Duration
	if l.head != nil {
		lag = l.lag(l.head)
	}
	l.mu.Unlock()
	f.Detail = fmt.Sprintf("epoch %d, %s old; final is epoch %d", head.Height, lag.Round(time.Second), final.Height)
	return f
}

func (l *Lotus) checkWallet(ctx context.Context, _ *session, _ tip) Finding {
	f := Finding{What: "wallet"}
	client, err := l.Client(ctx)
	if err != nil {
		f.Err, f.Advice = err, "send some FIL to the wallet, so that the chain knows it"
		return f
	}
	f.Detail = fmt.Sprintf("%s is %s, and the node signs with it", client.Key, client.ID)
	return f
}

func (l *Lotus) checkFunds(ctx context.Context, _ *session, _ tip) Finding {
	f := Finding{What: "funds"}
	funds, err := l.Funds(ctx)
	if err != nil {
		f.Err = err
		return f
	}
	f.Detail = fmt.Sprintf("wallet %s, escrow %s of which %s is locked, datacap %s bytes",
		types.FIL(funds.Wallet), types.FIL(funds.Escrow), types.FIL(funds.Locked), funds.Datacap)
	if free := big.Sub(funds.Escrow, funds.Locked); free.Sign() <= 0 && funds.Datacap.IsZero() {
		f.Advice = "no escrow is free and there is no datacap: only deals without a price can be made"
	}
	return f
}

func (l *Lotus) checkTree(ctx context.Context, s *session, head tip) Finding {
	m, err := l.market(ctx, s, head, head)
	switch {
	case err != nil:
		return Finding{What: "state", Detail: err.Error(), Advice: "active deals are asked for one by one; a node that serves ChainReadObj costs far fewer calls"}
	case !m.known:
		return Finding{What: "state", Detail: "this version does not know the network's market actor", Advice: "update: until then active deals are asked for one by one"}
	}
	return Finding{What: "state", Detail: "it can be read"}
}

func (l *Lotus) checkEvents(ctx context.Context, s *session, head tip) Finding {
	filter := types.ActorEventFilter{FromHeight: &head.Height, ToHeight: &head.Height}
	filter.Addresses = append(filter.Addresses, builtin.StorageMarketActorAddr)
	_, err := callNull(ctx, s, s.timeout, "GetActorEventsRaw", func(ctx context.Context, n *node) (*[]*types.ActorEvent, error) {
		return n.GetActorEventsRaw(ctx, &filter)
	})
	if err != nil {
		return Finding{What: "events", Detail: err.Error(), Advice: "set EnableActorEventsAPI in the node's settings: then the ids of deals are found also where a provider does not name them"}
	}
	return Finding{What: "events", Detail: "they are served"}
}
