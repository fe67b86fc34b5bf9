package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
)

// A tokenLine is a token as it is printed: never its text.
type tokenLine struct {
	ID      string     `json:"id"`
	Account string     `json:"account"`
	Label   string     `json:"label"`
	Policy  string     `json:"policy,omitempty"`
	Created time.Time  `json:"created"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

func (p *program) tokenCommand() *cobra.Command {
	return group("token", "Create, list and revoke tokens", p.tokenCreate(), p.tokenList(), p.tokenRevoke())
}

func (p *program) tokenCreate() *cobra.Command {
	var account, label, policy string
	c := &cobra.Command{
		Use:   "create --account NAME --label LABEL",
		Short: "Create a token and print it, alone and only now",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				if err := p.checkPolicy(ctx, s, policy); err != nil {
					return err
				}
				owner, err := s.tokens.AccountByName(ctx, account)
				if errors.Is(err, auth.ErrNotFound) {
					return fmt.Errorf("there is no account %q: create it with `frostpin account create`", account)
				}
				if err != nil {
					return err
				}
				text, _, err := s.tokens.CreateToken(ctx, auth.Operator(), auth.NewToken{
					Account: owner.ID, Label: label, Policy: policy, Scopes: auth.OwnScopes,
				})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(p.stdout, text.Reveal())
				return err
			})
		},
	}
	c.Flags().StringVar(&account, "account", auth.FirstAccount, "The account that the token gives access to")
	c.Flags().StringVar(&label, "label", "", "What the token is for, such as the device's name")
	c.Flags().StringVar(&policy, "policy", "", "The policy for pins made with it that do not say otherwise")
	return c
}

func (p *program) tokenList() *cobra.Command {
	var account string
	c := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List tokens, without their text, which nobody can get again",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				tokens, err := s.tokens.Tokens(ctx, account)
				if errors.Is(err, auth.ErrNotFound) {
					return fmt.Errorf("there is no account %q", account)
				}
				if err != nil {
					return err
				}
				heading := []string{"ID", "ACCOUNT", "LABEL", "POLICY", "CREATED", "REVOKED"}
				return printList(c, tokenLines(tokens), heading, func(t tokenLine) []string {
					revoked := ""
					if t.Revoked != nil {
						revoked = moment(*t.Revoked)
					}
					return []string{t.ID, t.Account, t.Label, t.Policy, moment(t.Created), revoked}
				})
			})
		},
	})
	c.Flags().StringVar(&account, "account", "", "Only the tokens of this account")
	return c
}

func (p *program) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID...",
		Short: "Revoke tokens; they are refused from the next request on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, ids []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				var failed error
				for _, id := range ids {
					err := s.tokens.RevokeToken(ctx, auth.Operator(), id)
					if errors.Is(err, auth.ErrNotFound) {
						err = errors.New("there is no token with one of these ids; `frostpin token list` shows all")
					}
					failed = errors.Join(failed, err)
				}
				return failed
			})
		},
	}
}

func tokenLines(tokens []auth.Token) []tokenLine {
	lines := make([]tokenLine, len(tokens))
	for i, t := range tokens {
		lines[i] = tokenLine{ID: t.ID, Account: t.Account, Label: t.Label, Policy: t.Policy, Created: t.Created}
		if !t.Revoked.IsZero() {
			lines[i].Revoked = &t.Revoked
		}
	}
	return lines
}
