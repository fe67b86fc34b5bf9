package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"
)

// An auditLine is one change as it is printed.
type auditLine struct {
	At      time.Time       `json:"at"`
	Actor   string          `json:"actor"`
	Token   string          `json:"token,omitempty"`
	Action  string          `json:"action"`
	Account string          `json:"account,omitempty"`
	Subject string          `json:"subject"`
	Detail  json.RawMessage `json:"detail"`
}

func (p *program) auditCommand() *cobra.Command {
	var account string
	var limit int
	c := withJSON(&cobra.Command{
		Use:   "audit",
		Short: "Show who has changed accounts, tokens, plans, invites and blocks",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				lines := func(yield func(auditLine, error) bool) {
					for before, left := int64(0), limit; left > 0; {
						n := min(left, pageSize)
						entries, err := s.tokens.Audit(ctx, account, before, n)
						if err != nil {
							yield(auditLine{}, err)
							return
						}
						for _, e := range entries {
							if !yield(auditLine{e.At, e.Actor, e.Token, e.Action, e.Account, e.Subject, e.Detail}, nil) {
								return
							}
							before = e.ID
						}
						if left -= n; len(entries) < n {
							return
						}
					}
				}
				heading := []string{"AT", "ACTOR", "TOKEN", "ACTION", "ACCOUNT", "SUBJECT", "DETAIL"}
				return printStream(c, lines, heading, func(l auditLine) []string {
					return []string{moment(l.At), l.Actor, l.Token, l.Action, l.Account, l.Subject, string(l.Detail)}
				})
			})
		},
	})
	c.Flags().StringVar(&account, "account", "", "Only changes of this account and its tokens")
	c.Flags().IntVar(&limit, "limit", 100, "At most so many, the newest first")
	return c
}
