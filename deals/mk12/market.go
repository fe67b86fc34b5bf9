package mk12

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/filecoin-project/go-state-types/builtin/v9/market"
	"github.com/filecoin-project/go-state-types/crypto"
	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/mk12/wire"
)

// A Config says how providers are reached. The zero value is for a public network.
type Config struct {
	AllowPrivate bool          // also private and loopback addresses: for a devnet
	Dial         time.Duration // longest wait for a connection (15 s)
}

const defaultDial = 15 * time.Second

// The wire package bounds writing and reading of an exchange; these bound it as a whole.
const (
	proposeTimeout = 90 * time.Second
	askTimeout     = 30 * time.Second
)

// A Market is deals.Market over a libp2p host, which stays its owner's.
type Market struct {
	host     host.Host
	cfg      Config
	exchange atomic.Uint64 // numbers exchanges, each of which protects its connection
}

var _ deals.Market = (*Market)(nil)

// New returns a market that calls providers from a host of NewHost.
func New(h host.Host, cfg Config) *Market {
	cfg.Dial = cmp.Or(cfg.Dial, defaultDial)
	return &Market{host: h, cfg: cfg}
}

// Name is mk12.
func (m *Market) Name() string { return "mk12" }

// Ask asks a provider for its present conditions.
func (m *Market) Ask(ctx context.Context, p deals.Contact) (deals.Ask, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	to, release, err := m.reach(ctx, p)
	if err != nil {
		return deals.Ask{}, fmt.Errorf("asking %s for its conditions: %w", p.Provider, err)
	}
	defer release()
	signed, err := wire.Ask(ctx, m.host, to, p.Provider.Address())
	if err != nil {
		return deals.Ask{}, translate(ctx, err)
	}
	if signed == nil || signed.Ask == nil {
		return deals.Ask{}, fmt.Errorf("asking %s for its conditions: the peer does not answer for this provider", p.Provider)
	}
	ask, err := understandAsk(p.Provider, signed)
	if err != nil {
		return deals.Ask{}, fmt.Errorf("asking %s for its conditions: %w", p.Provider, err)
	}
	return ask, nil
}

// Compose makes the message that proposes the deal.
func (m *Market) Compose(id uuid.UUID, signed market.ClientDealProposal, root cid.Cid, from deals.Transfer) ([]byte, error) {
	if from.Size == 0 || from.URL == "" {
		return nil, errors.New("composing a proposal: the transfer names no bytes")
	}
	headers := map[string]string{}
	if from.Bearer != "" {
		headers["Authorization"] = "Bearer " + from.Bearer
	}
	transfer, err := wire.NewHTTPTransfer(id.String(), wire.HTTPRequest{URL: from.URL, Headers: headers}, from.Size)
	if err != nil {
		return nil, fmt.Errorf("composing a proposal: %w", err)
	}
	message, err := wire.Encode(&wire.DealParams{
		DealUUID:           id,
		ClientDealProposal: signed,
		DealDataRoot:       root,
		Transfer:           transfer,
	})
	if err != nil {
		return nil, fmt.Errorf("composing a proposal: %w", err)
	}
	return message, nil
}

// Propose sends a composed message.
func (m *Market) Propose(ctx context.Context, p deals.Contact, message []byte) (deals.Answer, error) {
	params, err := decompose(message)
	if err != nil {
		return deals.Answer{}, fmt.Errorf("proposing to %s: %w: %w", p.Provider, deals.ErrNotSent, err)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	to, release, err := m.reach(ctx, p)
	if err != nil {
		return deals.Answer{}, fmt.Errorf("proposing to %s: %w", p.Provider, err)
	}
	defer release()
	resp, err := wire.Propose(ctx, m.host, to, params)
	if err != nil {
		return deals.Answer{}, fmt.Errorf("proposing to %s: %w", p.Provider, translate(ctx, err))
	}
	return understandAnswer(resp), nil
}

// decompose reads a message, and makes sure that sending it sends the same bytes again.
func decompose(message []byte) (*wire.DealParams, error) {
	params := &wire.DealParams{}
	if err := wire.Decode(bytes.NewReader(message), params); err != nil {
		return nil, fmt.Errorf("reading the stored proposal: %w", err)
	}
	again, err := wire.Encode(params)
	if err != nil {
		return nil, fmt.Errorf("reading the stored proposal: %w", err)
	}
	if !bytes.Equal(again, message) {
		return nil, errors.New("reading the stored proposal: it is no message that was composed here")
	}
	return params, nil
}

// Status asks how a deal goes.
func (m *Market) Status(ctx context.Context, p deals.Contact, id uuid.UUID, signature crypto.Signature) (deals.ProviderStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	to, release, err := m.reach(ctx, p)
	if err != nil {
		return deals.ProviderStatus{}, fmt.Errorf("asking %s for deal %s: %w", p.Provider, id, err)
	}
	defer release()
	resp, err := wire.Status(ctx, m.host, to, &wire.DealStatusRequest{DealUUID: id, Signature: signature})
	if err != nil {
		return deals.ProviderStatus{}, translate(ctx, err)
	}
	status, err := understandStatus(id, resp)
	if err != nil {
		return deals.ProviderStatus{}, fmt.Errorf("asking %s for deal %s: %w", p.Provider, id, err)
	}
	return status, nil
}

// reach connects to a provider and keeps the connection from being trimmed until release is called.
func (m *Market) reach(ctx context.Context, p deals.Contact) (to peer.AddrInfo, release func(), err error) {
	if p.PeerID == "" {
		return to, nil, fmt.Errorf("%w: it announces no peer id", deals.ErrNotSent)
	}
	if to.ID, err = peer.Decode(p.PeerID); err != nil {
		return to, nil, fmt.Errorf("%w: reading its peer id: %w", deals.ErrNotSent, err)
	}
	tag := "mk12/" + strconv.FormatUint(m.exchange.Add(1), 10)
	m.host.ConnManager().Protect(to.ID, tag)
	release = func() { m.host.ConnManager().Unprotect(to.ID, tag) }

	dial, cancel := context.WithTimeout(ctx, m.cfg.Dial)
	defer cancel()
	if to.Addrs, err = m.dialable(p.Addrs); err == nil {
		err = m.host.Connect(dial, to)
	}
	if err != nil {
		release()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return to, nil, fmt.Errorf("%w: %w", deals.ErrNotSent, err)
	}
	return to, release, nil
}

// translate makes the wire's certainty that nothing was sent ours, and names the cause of a context that has ended.
func translate(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if _, unsent := errors.AsType[*wire.NotSentError](err); unsent {
		return fmt.Errorf("%w: %w", deals.ErrNotSent, err)
	}
	return err
}
