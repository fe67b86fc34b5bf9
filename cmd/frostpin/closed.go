package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
)

// emptyEvery is how often it is looked whether pins of closed accounts are due to go.
const emptyEvery = time.Hour

// emptyClosed removes the pins of accounts that were closed so long ago, until ctx ends. Several servers may do so at once.
func emptyClosed(ctx context.Context, accounts *auth.Service, service *pins.Service, after time.Duration, now func() time.Time, log *slog.Logger) {
	if after <= 0 {
		return
	}
	ticker := time.NewTicker(emptyEvery)
	defer ticker.Stop()
	for {
		if err := emptyOnce(ctx, accounts, service, now().Add(-after), log); err != nil && ctx.Err() == nil {
			log.Error("removing pins of closed accounts; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func emptyOnce(ctx context.Context, accounts *auth.Service, service *pins.Service, closedBefore time.Time, log *slog.Logger) error {
	for after := int64(0); ; {
		page, err := accounts.ClosedAccounts(ctx, closedBefore, after, pageSize)
		if err != nil {
			return err
		}
		for _, a := range page {
			after = a.ID
			removed, err := service.DeleteAll(ctx, pins.Account(a.ID))
			if removed > 0 {
				log.Info("pins of a closed account were removed", "account", a.Name, "pins", removed)
			}
			if err != nil {
				return err
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}
