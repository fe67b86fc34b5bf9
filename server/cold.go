package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// Cold tells about the cold copies behind pins.
type Cold interface {
	// Deals returns every try for a wish, the newest last; none when the wish is not known.
	Deals(ctx context.Context, w deals.Wish) ([]deals.Attempt, error)
	// TermsOf returns what is asked of the copies of a wish.
	TermsOf(ctx context.Context, id deals.TermsID) (deals.Terms, error)
	// ReadBack tells when a copy of a root was last read back from a provider and was right; zero: never yet.
	ReadBack(ctx context.Context, root cid.Cid) (time.Time, error)
	// Receipt returns the signed receipt of a wish as it travels, byte for byte. deals.ErrNoDeals or deals.ErrNotFound:
	// nothing has been proposed yet.
	Receipt(ctx context.Context, w deals.Wish) ([]byte, error)
	// ReceiptKey is the public key that signs receipts, a did:key.
	ReceiptKey() string
}

var (
	errNoDealYet = errors.New("no deal was proposed yet") // so there is no receipt
	errNoCold    = errors.New("no cold copies are made here")
	errNoPolicy  = errors.New("no such policy")
)

// apiV1 is where our own API lives, whatever the base path of the Pinning Service API.
const apiV1 = "/api/v1"

// ownAPI implements the interface that is generated from api-v1.yaml.
type ownAPI struct{ *Server }

var _ v1.ServerInterface = ownAPI{}

// routeOwn adds the routes of our own API.
func (s *Server) routeOwn() {
	v1.RegisterHandlersWithOptions(s.echo, ownAPI{s}, v1.RegisterHandlersOptions{BaseURL: apiV1, OperationMiddlewares: s.guarded()})
	for _, path := range []string{
		"/pins/batch", "/pins/:requestid", "/pins/:requestid/deals", "/pins/:requestid/receipt", "/receipt-key", "/links", uploadRoute,
		"/tokens", "/tokens/:tokenid", "/tokens/:tokenid/rotate", "/account", "/events", "/webhooks", "/webhooks/:webhookid", "/webhooks/:webhookid/deliveries", "/webhooks/:webhookid/replay", "/signup", "/usage", "/ledger", "/ledger/statement", "/payments",
		"/admin/accounts", "/admin/accounts/:account", "/admin/accounts/:account/plan",
		"/admin/accounts/:account/suspend", "/admin/accounts/:account/resume", "/admin/accounts/:account/close",
		"/admin/accounts/:account/usage", "/admin/accounts/:account/credit",
		"/admin/blocks", "/admin/blocks/:cid",
	} {
		s.echo.OPTIONS(apiV1+path, preflight)
	}
}

// wish finds the cold copies of a pin of the caller; ok is false when it has none.
func (s ownAPI) wish(c echo.Context, requestid string) (w deals.Wish, ok bool, err error) {
	id, err := parseID(requestid)
	if err != nil {
		return deals.Wish{}, false, err
	}
	p, err := s.pins.Get(c.Request().Context(), account(c), id)
	if err != nil {
		return deals.Wish{}, false, err
	}
	w, ok = p.Wish()
	return w, ok && s.cfg.Cold != nil, nil
}

// Bounds of one answer with deals.
const (
	defaultDeals = 100
	maxDeals     = 1000
)

// GetPinDeals lists the deals of a pin.
func (s ownAPI) GetPinDeals(c echo.Context, requestid v1.Requestid, params v1.GetPinDealsParams) error {
	limit := int32(defaultDeals)
	if params.Limit != nil {
		limit = *params.Limit
	}
	if limit < 1 || limit > maxDeals {
		return &spec.InvalidError{Field: "limit", Problem: fmt.Sprintf("must be from 1 to %d", maxDeals)}
	}
	w, ok, err := s.wish(c, requestid)
	if err != nil {
		return err
	}
	list, err := s.dealList(c.Request().Context(), w, ok, int(limit))
	if err != nil {
		return err
	}
	return s.respond(c, http.StatusOK, list)
}

// dealList is the newest deals of a wish, none if there is no wish.
func (s ownAPI) dealList(ctx context.Context, w deals.Wish, wished bool, limit int) (v1.DealList, error) {
	var attempts []deals.Attempt
	if wished {
		var err error
		if attempts, err = s.cfg.Cold.Deals(ctx, w); err != nil {
			return v1.DealList{}, fmt.Errorf("listing deals: %w", err)
		}
	}
	list := v1.DealList{Count: int32(len(attempts)), Deals: []v1.Deal{}} //nolint:gosec // far from 2^31
	for _, a := range slices.Backward(attempts) {
		if len(list.Deals) == limit {
			break
		}
		list.Deals = append(list.Deals, renderDeal(a))
	}
	return list, nil
}

// GetPinReceipt returns the receipt of a pin.
func (s ownAPI) GetPinReceipt(c echo.Context, requestid v1.Requestid, _ v1.GetPinReceiptParams) error {
	w, ok, err := s.wish(c, requestid)
	if err != nil {
		return err
	}
	if !ok {
		return errNoDealYet
	}
	receipt, err := s.cfg.Cold.Receipt(c.Request().Context(), w)
	switch {
	case errors.Is(err, deals.ErrNoDeals), errors.Is(err, deals.ErrNotFound):
		return errNoDealYet
	case err != nil:
		return fmt.Errorf("making a receipt: %w", err)
	}
	return s.send(c, http.StatusOK, receipt) // as it is: the signature is over these bytes
}

// GetReceiptKey returns the key that signs receipts.
func (s ownAPI) GetReceiptKey(c echo.Context) error {
	if s.cfg.Cold == nil {
		return errNoCold
	}
	return s.respond(c, http.StatusOK, v1.ReceiptKey{Key: s.cfg.Cold.ReceiptKey()})
}

// renderDeal is an attempt as the contract has it. What is not known yet is left out.
func renderDeal(a deals.Attempt) v1.Deal {
	d := v1.Deal{
		Provider:        a.Provider.String(),
		State:           v1.DealState(a.State),
		Proposal:        a.UUID,
		Attempt:         int32(a.Generation), //nolint:gosec // tries are counted in tens
		Protocol:        a.Protocol,
		Verified:        a.Verified,
		ProposalCid:     cidText(a.ProposalCID),
		PublishMessage:  cidText(a.PublishCID),
		PieceCid:        cidText(a.Piece.CIDv1),
		PieceSize:       known(int64(a.Piece.Size)), //nolint:gosec // at most 64 GiB
		CarSize:         known(a.Piece.CARSize),
		Reason:          known(a.Reason),
		ProviderMessage: known(a.Verbatim),
		PlannedAt:       whole(a.PlannedAt),
		SentAt:          moment(a.SentAt),
		AcceptedAt:      moment(a.AcceptedAt),
		PulledAt:        moment(a.PulledAt),
		PublishedAt:     moment(a.PublishedAt),
		ActiveAt:        moment(a.ActiveAt),
		EndedAt:         moment(a.EndedAt),
		ChangedAt:       whole(a.ChangedAt),
	}
	if a.DealID != 0 {
		id := fmt.Sprint(a.DealID)
		d.DealId = &id
	}
	if a.State == deals.Planned || a.Start == 0 && a.End == 0 {
		return d // nothing was signed
	}
	start, end := int64(a.Start), int64(a.End)
	d.Start, d.End = &start, &end
	if !a.Price.Nil() {
		price := a.Price.String()
		d.Price = &price
	}
	if !a.Collateral.Nil() {
		collateral := a.Collateral.String()
		d.Collateral = &collateral
	}
	return d
}

// known leaves out what is zero because nobody knows it.
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func cidText(c cid.Cid) *string {
	if !c.Defined() {
		return nil
	}
	text := c.String()
	return &text
}

func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = whole(t)
	return &t
}

// policyPath is where the Pinning Service API is served once more, below the base path, with a policy as the default of
// what is added there: stock clients can send no meta, but they can be given another endpoint.
const policyPath = "/policy/:policy"

// named lets a request pass if the policy in its path exists.
func (s *Server) named(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		name := c.Param("policy")
		found, err := s.pins.HasPolicy(c.Request().Context(), name)
		if err != nil {
			return fmt.Errorf("looking up a policy: %w", err)
		}
		if !found {
			return errNoPolicy
		}
		choice := choiceOf(c)
		choice.Path = name
		c.Set(choiceKey, choice)
		return next(c)
	}
}

// choiceOf is what the caller's account, token and path say about cold copies.
func choiceOf(c echo.Context) pins.Choice {
	choice, _ := c.Get(choiceKey).(pins.Choice)
	return choice
}
