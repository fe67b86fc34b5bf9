package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// topUpsEvery is how often it is looked who can pay again: a command beside the server tells nobody.
const topUpsEvery = time.Second

// topUps has tried again what waited for money. Only a server knows what state a pin is in then, because its settings say so:
// commands and other servers leave it to this.
type topUps struct {
	books *ledger.Service
	pins  *pins.Service
	cold  *coldTier // nil: nothing is stored on Filecoin
	log   *slog.Logger
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
	for after := int64(0); ; {
		list, err := t.books.TopUps(ctx, after, pageSize)
		if err != nil || len(list) == 0 {
			return errors.Join(append(problems, err)...)
		}
		after = list[len(list)-1].ID
		if err := t.settle(ctx, list); err != nil {
			if ctx.Err() != nil {
				return err
			}
			problems = append(problems, err)
		}
	}
}

func (t topUps) settle(ctx context.Context, list []ledger.TopUp) error {
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
	done := slices.DeleteFunc(list, func(top ledger.TopUp) bool { return failed[top.Account] })
	return errors.Join(append(problems, t.books.ForgetTopUps(ctx, done))...)
}
