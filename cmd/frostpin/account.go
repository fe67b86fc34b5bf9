package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
)

// An accountLine is an account as it is printed.
type accountLine struct {
	Name    string    `json:"name"`
	Policy  string    `json:"policy,omitempty"`
	Created time.Time `json:"created"`
}

func (p *program) accountCommand() *cobra.Command {
	return group("account", "Create, list and change accounts",
		&cobra.Command{
			Use:   "create NAME",
			Short: "Create an account, whose pins no other account sees",
			Args:  cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return p.withStore(c, true, func(ctx context.Context, s *store) error {
					account, err := s.tokens.CreateAccount(ctx, auth.Operator(), args[0], auth.Trusted)
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
					return printList(c, accountLines(accounts), []string{"NAME", "POLICY", "CREATED"}, func(a accountLine) []string {
						return []string{a.Name, a.Policy, moment(a.Created)}
					})
				})
			},
		}),
		p.accountSet(),
	)
}

func (p *program) accountSet() *cobra.Command {
	var policy string
	c := &cobra.Command{
		Use:   "set NAME --policy POLICY",
		Short: "Give an account another policy for its new pins",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("policy") {
				return errors.New("say what to set: --policy")
			}
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				if err := p.checkPolicy(ctx, s, policy); err != nil {
					return err
				}
				err := s.tokens.SetAccountPolicy(ctx, auth.Operator(), args[0], policy)
				if errors.Is(err, auth.ErrNotFound) {
					return fmt.Errorf("there is no account %q", args[0])
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "The policy for pins that do not say otherwise; empty for none")
	return c
}

func accountLines(accounts []auth.Account) []accountLine {
	lines := make([]accountLine, len(accounts))
	for i, a := range accounts {
		lines[i] = accountLine{Name: a.Name, Policy: a.Policy, Created: a.Created}
	}
	return lines
}
