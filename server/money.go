package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"
	"github.com/oapi-codegen/runtime/types"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/server/v1"
	"github.com/frostpin/frostpin/spec"
)

// A Ledger knows what accounts have used and paid; ledger.Service is one.
type Ledger interface {
	// Afford returns a *ledger.FundsError when an account cannot pay for more.
	Afford(ctx context.Context, account int64, stored, more ledger.Stock) error
	// Coming is what is being fetched for an account, as far as it was set aside for.
	Coming(ctx context.Context, account int64) (ledger.Stock, error)
	Balance(ctx context.Context, account int64) (ledger.Balance, error)
	Outlook(ctx context.Context, account, hot, cold int64) (ledger.Outlook, error)
	// LetGoAfter is when pins of an account are let go in a grace period of such a length; zero: never.
	LetGoAfter(ctx context.Context, account int64, length time.Duration) (time.Time, error)
	Usage(ctx context.Context, account int64, from, to time.Time) ([]ledger.UsageDay, error)
	Entries(ctx context.Context, f ledger.Filter) ([]ledger.Entry, error)
	// CostOf is what was charged for a pin.
	CostOf(ctx context.Context, account int64, ref string) (ledger.Amount, error)
	Statement(ctx context.Context, account int64, month time.Time) (ledger.Statement, error)
	Credit(ctx context.Context, account int64, amount ledger.Amount, key, ref string, with ...func(ctx context.Context) error) (ledger.Entry, bool, error)
	Adjust(ctx context.Context, account int64, amount ledger.Amount, key, ref string, with ...func(ctx context.Context) error) (ledger.Entry, bool, error)
}

// Payments credit accounts for signed events; ledger.Webhook is one.
type Payments interface {
	Receive(ctx context.Context, signature string, body []byte) (ledger.Entry, bool, error)
}

var (
	errNoLedger   = errors.New("no ledger is kept")
	errNoPayments = errors.New("no payments are taken")
)

const (
	maxUsageDays    = 400
	defaultEntries  = 100
	maxPayment      = 64 << 10
	signatureHeader = "Frostpin-Signature"
	nextHeader      = "Frostpin-Next"
)

// unknownSize is what a DAG is taken to have at least whose size nobody knows yet. What it has more is asked for when it
// comes.
const unknownSize = 1 << 20

// pays tells whether what the caller does costs anything.
func (s *Server) pays(c echo.Context) bool { return s.cfg.Ledger != nil && caller(c).Limits.Bills() }

// afford tells whether the caller can pay for a pin that brings so many bytes; what is not known is asked of the pins.
// Accounts that pay nothing cost nothing here.
func (s *Server) afford(c echo.Context, root cid.Cid, size int64, copies int) error {
	if !s.pays(c) {
		return nil
	}
	more, err := s.weigh(c, root, size, copies)
	if err == nil {
		err = s.carries(c, more, []cid.Cid{root}, nil, "")
	}
	return err
}

// weigh is what a pin will occupy, as far as anybody knows.
func (s *Server) weigh(c echo.Context, root cid.Cid, size int64, copies int) (ledger.Stock, error) {
	if size <= 0 && root.Defined() {
		held, err := s.pins.Size(c.Request().Context(), root)
		if err != nil {
			return ledger.Stock{}, fmt.Errorf("looking up the size of a dag: %w", err)
		}
		size = held
	}
	if size <= 0 {
		size = unknownSize
	}
	return ledger.Stock{Hot: size, Cold: size * int64(copies)}, nil
}

// carries tells whether the caller's balance carries so much more beside what is stored and what is being fetched, which a
// replacement does not add to. What is kept of replaced pins may use up the allowance, and gives way then: not the DAGs that are
// weighed, nor those that are asked about later in the same request.
func (s *Server) carries(c echo.Context, more ledger.Stock, weighed, later []cid.Cid, replaced pins.ID) error {
	stay := slices.DeleteFunc(slices.Clone(later), func(root cid.Cid) bool { return slices.Contains(weighed, root) })
	yields, err := s.covers(c, more, stay, replaced)
	if err == nil && yields {
		_, err = s.pins.GiveWay(c.Request().Context(), account(c), replaced, pins.AllKept, slices.Concat(weighed, later)...)
	}
	return err
}

// covers is carries that has nothing give way. It tells whether something must, of which some DAGs are none.
func (s *Server) covers(c echo.Context, more ledger.Stock, stay []cid.Cid, replaced pins.ID) (yields bool, err error) {
	ctx := c.Request().Context()
	stock, err := s.pins.Stock(ctx, account(c))
	if err != nil {
		return false, err
	}
	if replaced == "" {
		coming, err := s.cfg.Ledger.Coming(ctx, caller(c).Account)
		if err != nil {
			return false, err
		}
		stock.Hot, stock.Cold = stock.Hot+coming.Hot, stock.Cold+coming.Cold
	}
	short := s.cfg.Ledger.Afford(ctx, caller(c).Account, ledger.Stock(stock), more)
	if !errors.Is(short, ledger.ErrFunds) {
		return false, short
	}
	kept, err := s.pins.CanYield(ctx, account(c), replaced, stay...)
	if err != nil || kept == 0 {
		return false, cmp.Or(err, short)
	}
	stock.Hot = max(0, stock.Hot-kept)
	return true, s.cfg.Ledger.Afford(ctx, caller(c).Account, ledger.Stock(stock), more)
}

// GetUsage shows what the caller's account stores, has used and pays.
func (s ownAPI) GetUsage(c echo.Context, params v1.GetUsageParams) error {
	return s.usage(c, caller(c).Account, caller(c).Limits, v1.ShowUsageParams{
		From: params.From, To: params.To, Format: (*v1.ShowUsageParamsFormat)(params.Format),
	})
}

// ShowUsage shows the same of any account.
func (s ownAPI) ShowUsage(c echo.Context, name v1.AccountName, params v1.ShowUsageParams) error {
	ctx := c.Request().Context()
	account, err := s.accounts.AccountByName(ctx, name)
	if err != nil {
		return unless(err, errNoAccount)
	}
	plan, err := s.accounts.Plan(ctx, account.Plan)
	if err != nil {
		return err
	}
	return s.usage(c, account.ID, &plan.Limits, params)
}

func (s ownAPI) usage(c echo.Context, account int64, limits *auth.Limits, params v1.ShowUsageParams) error {
	if s.cfg.Ledger == nil {
		return errNoLedger
	}
	from, to, err := usagePeriod(params.From, params.To, time.Now().UTC())
	if err != nil {
		return err
	}
	csv, err := wantsCSV(given(params.Format))
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	days, err := s.cfg.Ledger.Usage(ctx, account, from, to)
	if err != nil {
		return err
	}
	if csv {
		var body bytes.Buffer
		if err := ledger.WriteUsage(&body, days); err != nil {
			return err
		}
		return c.Blob(http.StatusOK, csvType, body.Bytes())
	}
	stock, err := s.pins.Stock(ctx, pins.Account(account))
	if err != nil {
		return err
	}
	report := v1.UsageReport{From: types.Date{Time: from}, To: types.Date{Time: to}, Days: []v1.UsageDay{}}
	report.Stored.HotBytes, report.Stored.ColdBytes = stock.Hot, stock.Cold
	for _, d := range days {
		day, err := time.Parse(time.DateOnly, d.Day)
		if err != nil {
			return fmt.Errorf("reading a day of the ledger: %w", err)
		}
		report.Days = append(report.Days, v1.UsageDay{Day: types.Date{Time: day}, Kind: string(d.Kind), Qty: d.Qty.String(), Unit: d.Kind.Unit()})
	}
	if limits.Bills() {
		if report.Money, err = s.money(ctx, account, stock, limits.Grace()); err != nil {
			return err
		}
	}
	return s.respond(c, http.StatusOK, report)
}

// money is how the balance of an account stands that stores so much.
func (s ownAPI) money(ctx context.Context, account int64, stock pins.Stock, length time.Duration) (*v1.Money, error) {
	outlook, err := s.cfg.Ledger.Outlook(ctx, account, stock.Hot, stock.Cold)
	if err != nil {
		return nil, err
	}
	shown := renderMoney(outlook)
	if outlook.Mood() != ledger.Empty {
		return shown, nil
	}
	end, err := s.cfg.Ledger.LetGoAfter(ctx, account, length)
	if err != nil {
		return nil, err
	}
	shown.LetGoAfter = moment(end)
	return shown, nil
}

// usagePeriod is the period that was asked for, or the running month.
func usagePeriod(first, last *types.Date, now time.Time) (from, to time.Time, err error) {
	from, to = now.AddDate(0, 0, 1-now.Day()).Truncate(24*time.Hour), now.Truncate(24*time.Hour)
	if first != nil {
		from = first.Time
	}
	if last != nil {
		to = last.Time
	}
	if to.Before(from) || to.Sub(from) > maxUsageDays*24*time.Hour {
		return from, to, &spec.InvalidError{Field: "to", Problem: fmt.Sprintf("must be from 0 to %d days after from", maxUsageDays)}
	}
	return from, to, nil
}

// csvType is that of texts/csv with a line of names.
const csvType = "text/csv; charset=utf-8; header=present"

func wantsCSV[T ~string](format T) (bool, error) {
	switch format {
	case "", "json":
		return false, nil
	case "csv":
		return true, nil
	}
	return false, &spec.InvalidError{Field: "format", Problem: "must be json or csv"}
}

// GetLedger lists entries of the caller's account.
func (s ownAPI) GetLedger(c echo.Context, params v1.GetLedgerParams) error {
	if s.cfg.Ledger == nil {
		return errNoLedger
	}
	csv, err := wantsCSV(given(params.Format))
	if err != nil {
		return err
	}
	f := ledger.Filter{
		Account: caller(c).Account, Kind: ledger.Kind(given(params.Kind)), Ref: given(params.Pin),
		From: given(params.From), To: given(params.To), After: given(params.After), Limit: defaultEntries,
	}
	if params.Limit != nil {
		f.Limit = int(*params.Limit)
	}
	if f.Limit < 1 || f.Limit > ledger.MaxPage {
		return &spec.InvalidError{Field: "limit", Problem: fmt.Sprintf("must be from 1 to %d", ledger.MaxPage)}
	}
	entries, err := s.cfg.Ledger.Entries(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := v1.Ledger{Entries: []v1.LedgerEntry{}}
	if len(entries) == f.Limit {
		list.Next = &entries[f.Limit-1].ID
	}
	if csv {
		var body bytes.Buffer
		if err := ledger.WriteEntries(&body, entries, true); err != nil {
			return err
		}
		if list.Next != nil {
			c.Response().Header().Set(nextHeader, strconv.FormatInt(*list.Next, 10))
		}
		return c.Blob(http.StatusOK, csvType, body.Bytes())
	}
	for _, e := range entries {
		list.Entries = append(list.Entries, renderEntry(e))
	}
	return s.respond(c, http.StatusOK, list)
}

// GetStatement sums up a month of the caller's account.
func (s ownAPI) GetStatement(c echo.Context, params v1.GetStatementParams) error {
	if s.cfg.Ledger == nil {
		return errNoLedger
	}
	month := time.Now()
	if params.Month != nil {
		var err error
		if month, err = time.Parse("2006-01", *params.Month); err != nil {
			return &spec.InvalidError{Field: "month", Problem: "is not like 2026-11"}
		}
	}
	st, err := s.cfg.Ledger.Statement(c.Request().Context(), caller(c).Account, month)
	if err != nil {
		return err
	}
	shown := v1.Statement{From: st.From, To: st.To, Opening: st.Opening.String(), Closing: st.Closing.String(), Lines: []v1.StatementLine{}}
	for _, l := range st.Lines {
		shown.Lines = append(shown.Lines, v1.StatementLine{
			Kind: string(l.Kind), Entries: l.Entries, Qty: l.Qty.String(), Free: l.Free.String(), Amount: l.Amount.String(), Waived: l.Waived.String(),
		})
	}
	return s.respond(c, http.StatusOK, shown)
}

// ReceivePayment credits an account for the signed event of a payment provider's adapter.
func (s ownAPI) ReceivePayment(c echo.Context, params v1.ReceivePaymentParams) error {
	if s.cfg.Payments == nil {
		return errNoPayments
	}
	body, err := readBody(c, maxPayment)
	if err != nil {
		return err
	}
	e, _, err := s.cfg.Payments.Receive(c.Request().Context(), given(params.FrostpinSignature), body)
	if err != nil {
		return err
	}
	if err := s.funded(c, e.Account); err != nil {
		return err
	}
	return s.respond(c, http.StatusOK, renderEntry(e))
}

// CreditAccount books what was paid in, or a correction.
func (s ownAPI) CreditAccount(c echo.Context, name v1.AccountName) error {
	if s.cfg.Ledger == nil {
		return errNoLedger
	}
	var req v1.CreditRequest
	if err := readObject(c, &req, "amount and key, and maybe note and correction"); err != nil {
		return err
	}
	amount, err := ledger.ParseAmount(req.Amount)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	account, err := s.accounts.AccountByName(ctx, name)
	if err != nil {
		return unless(err, errNoAccount)
	}
	book := s.cfg.Ledger.Credit
	if given(req.Correction) {
		book = s.cfg.Ledger.Adjust
	}
	e, _, err := book(ctx, account.ID, amount, "operator/"+req.Key, given(req.Note), func(ctx context.Context) error {
		return s.accounts.NoteCredit(ctx, caller(c).Actor(), account.Name, amount.String(), req.Key)
	})
	if err != nil {
		return err
	}
	if err := s.funded(c, account.ID); err != nil {
		return err
	}
	return s.respond(c, http.StatusOK, renderEntry(e))
}

// funded tries again what an account could not pay for, if there is money now: what was booked may be a repetition, and
// spent since, or a correction. It stays booked whether that works now or not; whoever is told that it did not may
// repeat the payment, and what was booked has this be done a second later in any case.
func (s *Server) funded(c echo.Context, account int64) error {
	b, err := s.cfg.Ledger.Balance(c.Request().Context(), account)
	if err != nil || !b.Pays() {
		return err
	}
	return s.pins.Retry(c.Request().Context(), pins.Account(account), spec.ReasonInsufficientFunds)
}

func renderEntry(e ledger.Entry) v1.LedgerEntry {
	shown := v1.LedgerEntry{
		Id: e.ID, At: whole(e.At), Kind: string(e.Kind), Qty: "0", Free: "0", Unit: e.Unit, Price: e.Price.String(), Amount: e.Amount.String(),
		Waived: e.Waived.String(), Balance: e.Balance.String(), Ref: e.Ref, Key: e.Key,
	}
	if e.Qty != nil {
		shown.Qty = e.Qty.String()
	}
	if e.Free != nil {
		shown.Free = e.Free.String()
	}
	return shown
}

func renderMoney(o ledger.Outlook) *v1.Money {
	m := v1.Money{
		Balance: o.Balance.Balance.String(), Holds: o.Balance.Holds.String(), Available: o.Balance.Available().String(), Floor: o.Balance.Floor.String(),
		EmptySince: moment(o.Balance.Empty), Used: o.Used.String(), Estimate: o.Estimate.String(), PerMonth: o.PerMonth.String(),
	}
	if o.RunwayDays >= 0 {
		m.RunwayDays = &o.RunwayDays
	}
	return &m
}

// judgeMoney knows the errors of the ledger.
func judgeMoney(err error) (verdict, bool) {
	var short *ledger.FundsError
	switch {
	case errors.As(err, &short):
		return verdict{http.StatusConflict, spec.ReasonInsufficientFunds, "the balance does not carry this pin: " + short.Error()}, true
	case errors.Is(err, ledger.ErrFunds):
		return verdict{http.StatusConflict, spec.ReasonInsufficientFunds, "the balance would fall below its floor"}, true
	case errors.Is(err, ledger.ErrPlan):
		return verdict{http.StatusServiceUnavailable, spec.ReasonServiceUnavailable, "the prices of this account's plan cannot be read here now; nothing new is taken until they can be"}, true
	case errors.Is(err, ledger.ErrSignature):
		return verdict{http.StatusForbidden, reasonForbidden, "the signature is not valid, or older than five minutes"}, true
	case errors.Is(err, ledger.ErrKeyReused):
		return verdict{http.StatusConflict, reasonConflict, "this key was used for another account or amount"}, true
	case errors.Is(err, ledger.ErrNotFound):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "there is no such account"}, true
	case errors.Is(err, ledger.ErrInvalid):
		return verdict{http.StatusBadRequest, spec.ReasonBadRequest, err.Error()}, true
	case errors.Is(err, errNoLedger), errors.Is(err, errNoPayments):
		return verdict{http.StatusNotFound, spec.ReasonNotFound, "this server has no " + map[bool]string{true: "ledger", false: "payments"}[errors.Is(err, errNoLedger)]}, true
	}
	return verdict{}, false
}
