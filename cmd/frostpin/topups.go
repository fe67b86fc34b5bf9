package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

const (
	topUpsEvery = time.Second // a command beside the server tells nobody who can pay again

	// A pin for which the money was not there may be refused only after it has come. So all is tried again once more, when
	// nothing can have been asked before the payment any more.
	topUpsFor = time.Minute
)

// topUps has tried again what waited for money. Only a server knows what state a pin is in then, because its settings say so:
// commands and other servers leave it to this.
type topUps struct {
	books *ledger.Service
	pins  *pins.Service
	cold  *coldTier // nil: nothing is stored on Filecoin
	now   func() time.Time
	log   *slog.Logger
	tried map[int64]time.Time // since when the second try of a top-up is waited for
}

func newTopUps(books *ledger.Service, service *pins.Service, cold *coldTier, log *slog.Logger) topUps {
	return topUps{books, service, cold, time.Now, log, map[int64]time.Time{}}
}

// run looks until ctx ends. Several servers may do so at once.
func (t topUps) run(ctx context.Context) {
	ticker := time.NewTicker(topUpsEvery)
	defer ticker.Stop()
	for {
		if err := t.look(ctx); err != nil && ctx.Err() == nil {
			t.log.Warn("trying again what waited for money; it is repeated", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look does all there is to do. What fails is there for the next look, and keeps nobody else waiting.
func (t topUps) look(ctx context.Context) error {
	var problems []error
	there := map[int64]bool{}
	for after := int64(0); ; {
		list, err := t.books.TopUps(ctx, after, pageSize)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		if len(list) == 0 {
			break
		}
		for _, top := range list {
			there[top.ID] = true
		}
		after = list[len(list)-1].ID
		if err := t.settle(ctx, list); err != nil {
			if ctx.Err() != nil {
				return err
			}
			problems = append(problems, err)
		}
	}
	// Others are forgotten, by this server or another.
	maps.DeleteFunc(t.tried, func(id int64, _ time.Time) bool { return !there[id] })
	return errors.Join(problems...)
}

// settle tries again what waits for top-ups that are new, and for those that are old enough, which it forgets then.
func (t topUps) settle(ctx context.Context, list []ledger.TopUp) error {
	now := t.now()
	list = slices.DeleteFunc(slices.Clone(list), func(top ledger.TopUp) bool {
		tried, ok := t.tried[top.ID]
		return ok && now.Sub(tried) < topUpsFor
	})
	var problems []error
	var pay []pins.Account
	failed := map[int64]bool{}
	for _, top := range list {
		if failed[top.Account] || slices.Contains(pay, pins.Account(top.Account)) {
			continue
		}
		b, err := t.books.Balance(ctx, top.Account)
		if err == nil && b.Pays() { // else it is spent since
			pay = append(pay, pins.Account(top.Account))
			err = t.pins.Retry(ctx, pins.Account(top.Account), spec.ReasonInsufficientFunds)
		}
		if err != nil {
			problems, failed[top.Account] = append(problems, err), true
		}
	}
	if t.cold != nil && len(pay) > 0 {
		err := t.cold.Paid(ctx, func(ctx context.Context, roots []cid.Cid) ([]cid.Cid, error) { return t.pins.Named(ctx, pay, roots) })
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
	}
	var done []ledger.TopUp
	for _, top := range list {
		if failed[top.Account] {
			continue
		}
		if _, ok := t.tried[top.ID]; ok {
			done = append(done, top)
			continue
		}
		t.tried[top.ID] = now
	}
	return errors.Join(append(problems, t.books.ForgetTopUps(ctx, done))...)
}
