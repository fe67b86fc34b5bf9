package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	Scopes  []string   `json:"scopes"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Used    *time.Time `json:"used,omitempty"`
	Revoked *time.Time `json:"revoked,omitempty"`
}

func (p *program) tokenCommand() *cobra.Command {
	return group("token", "Create, list, rotate and revoke tokens", p.tokenCreate(), p.tokenList(), p.tokenRotate(), p.tokenRevoke())
}

func (p *program) tokenCreate() *cobra.Command {
	var account, label, policy, expires string
	var scopes []string
	c := &cobra.Command{
		Use:   "create --account NAME --label LABEL",
		Short: "Create a token and print it, alone and only now",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			allowed, err := auth.ParseScopes(scopes)
			if err != nil {
				return err
			}
			ends, err := parseEnd(expires, p.now())
			if err != nil {
				return err
			}
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
					Account: owner.ID, Label: label, Policy: policy, Scopes: allowed, Expires: ends,
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
	c.Flags().StringSliceVar(&scopes, "scopes", auth.OwnScopes.Names(), "What it may be used for; admin besides sees and changes all accounts")
	c.Flags().StringVar(&expires, "expires", "", "When it ends: a time from now such as 720h, a date, or a date and time; never when empty")
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
				heading := []string{"ID", "ACCOUNT", "LABEL", "SCOPES", "POLICY", "CREATED", "USED", "EXPIRES", "REVOKED"}
				return printList(c, tokenLines(tokens), heading, func(t tokenLine) []string {
					return []string{
						t.ID, t.Account, t.Label, strings.Join(t.Scopes, ","), t.Policy,
						moment(t.Created), end(t.Used), end(t.Expires), end(t.Revoked),
					}
				})
			})
		},
	})
	c.Flags().StringVar(&account, "account", "", "Only the tokens of this account")
	return c
}

func (p *program) tokenRotate() *cobra.Command {
	var grace time.Duration
	c := &cobra.Command{
		Use:   "rotate ID",
		Short: "Print a new token for the same; the old one is valid for a while longer",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				text, _, err := s.tokens.RotateToken(ctx, auth.Operator(), args[0], grace)
				if errors.Is(err, auth.ErrNotFound) {
					return errors.New("there is no valid token with this id; `frostpin token list` shows all")
				}
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(p.stdout, text.Reveal())
				return err
			})
		},
	}
	c.Flags().DurationVar(&grace, "grace", 24*time.Hour, "How long the old one stays valid, at most 720h")
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
		lines[i] = tokenLine{
			ID: t.ID, Account: t.Account, Label: t.Label, Policy: t.Policy, Scopes: t.Scopes.Names(), Created: t.Created,
			Expires: optional(t.Expires), Used: optional(t.Used), Revoked: optional(t.Revoked),
		}
	}
	return lines
}
