package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/auth/hooks"
	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/retrieval/guard"
)

// webhooks are called at public addresses, and at those that the operator has named.
func (c *Config) webhooks(db *database.DB, told *events.Service, accounts *auth.Service, log *slog.Logger, now func() time.Time) (*hooks.Service, error) {
	allowed, err := networks(c.WebhookPrivate)
	if err != nil {
		return nil, err
	}
	return hooks.New(hooks.Config{
		Client: guard.NewClient(guard.Config{Allow: allowed, Redirects: -1}),
		Plain:  len(allowed) > 0,
		Agent:  "frostpin/" + thisBuild().Version,
		Sign:   ledger.Sign,
		Closed: func(ctx context.Context, account int64) (bool, error) {
			state, err := accounts.AccountState(ctx, account)
			return state == auth.Closed, err
		},
	}, db, told, log, now), nil
}
