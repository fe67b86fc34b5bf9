package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
)

// An accountLine is an account as it is printed.
type accountLine struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

func (p *program) accountCommand() *cobra.Command {
	return group("account", "Create and list accounts",
		&cobra.Command{
			Use:   "create NAME",
			Short: "Create an account, whose pins no other account sees",
			Args:  cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return p.withStore(c, true, func(ctx context.Context, s *store) error {
					account, err := s.tokens.CreateAccount(ctx, args[0])
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(p.stdout, "created account %s; give it a token with: frostpin token create --account %s --label NAME\n",
						account.Name, account.Name)
					return err
				})
			},
		},
		withJSON(&cobra.Command{
			Use:   "list",
			Short: "List accounts",
			Args:  cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				return p.withStore(c, false, func(ctx context.Context, s *store) error {
					accounts, err := s.tokens.Accounts(ctx)
					if err != nil {
						return err
					}
					return printList(c, accountLines(accounts), []string{"NAME", "CREATED"}, func(a accountLine) []string {
						return []string{a.Name, moment(a.Created)}
					})
				})
			},
		}),
	)
}

func accountLines(accounts []auth.Account) []accountLine {
	lines := make([]accountLine, len(accounts))
	for i, a := range accounts {
		lines[i] = accountLine{Name: a.Name, Created: a.Created}
	}
	return lines
}
