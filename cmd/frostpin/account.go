package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
)

// An accountLine is an account as it is printed.
type accountLine struct {
	Name    string    `json:"name"`
	Plan    string    `json:"plan"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	Policy  string    `json:"policy,omitempty"`
	Created time.Time `json:"created"`
}

func newAccountLine(a auth.Account) accountLine {
	return accountLine{Name: a.Name, Plan: a.Plan, State: string(a.State), Since: a.Since, Policy: a.Policy, Created: a.Created}
}

func (p *program) accountCommand() *cobra.Command {
	return group("account", "Create, list and change accounts",
		p.accountCreate(), p.accountList(), p.accountShow(), p.accountSet(),
		p.accountState("suspend", auth.Suspended, "Let an account read and remove, and add nothing more"),
		p.accountState("resume", auth.Active, "Take a suspension back"),
		p.accountState("close", auth.Closed, "Close an account for good: all its tokens are revoked"),
		p.accountPlan(), p.accountCredit(), p.accountStatement(),
	)
}

func (p *program) accountCreate() *cobra.Command {
	var plan string
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create an account, whose pins no other account sees",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				account, err := s.tokens.CreateAccount(ctx, auth.Operator(), args[0], plan)
				if err != nil {
					return explained(err, args[0], plan)
				}
				_, err = fmt.Fprintf(p.stdout, "created account %s; give it a token with: frostpin token create --account %s --label NAME\n",
					account.Name, account.Name)
				return err
			})
		},
	}
	c.Flags().StringVar(&plan, "plan", auth.Trusted, "The plan whose limits it gets")
	return c
}

func (p *program) accountList() *cobra.Command {
	var search string
	c := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List accounts",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				lines := func(yield func(accountLine, error) bool) {
					for after := int64(0); ; {
						accounts, err := s.tokens.SearchAccounts(ctx, search, after, pageSize)
						if err != nil {
							yield(accountLine{}, err)
							return
						}
						for _, a := range accounts {
							if !yield(newAccountLine(a), nil) {
								return
							}
							after = a.ID
						}
						if len(accounts) < pageSize {
							return
						}
					}
				}
				return printStream(c, lines, []string{"NAME", "PLAN", "STATE", "POLICY", "CREATED"}, func(a accountLine) []string {
					return []string{a.Name, a.Plan, a.State, a.Policy, moment(a.Created)}
				})
			})
		},
	})
	c.Flags().StringVar(&search, "search", "", "Only accounts with this in their name")
	return c
}

// An accountReport is one account with what it has and may have.
type accountReport struct {
	accountLine
	Tokens int              `json:"tokens"`
	Pins   map[string]int64 `json:"pins"`
	Bytes  int64            `json:"bytes"`
	Limits auth.Limits      `json:"limits"`
}

func (p *program) accountShow() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "show NAME",
		Short: "Show an account, its limits and what it uses of them",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				r, err := p.reportAccount(ctx, s, args[0])
				switch {
				case err != nil:
					return explained(err, args[0], "")
				case wantsJSON(c):
					return printJSON(p.stdout, r)
				}
				return r.describe(p.stdout)
			})
		},
	})
}

func (p *program) reportAccount(ctx context.Context, s *store, name string) (r accountReport, err error) {
	account, err := s.tokens.AccountByName(ctx, name)
	if err != nil {
		return r, err
	}
	plan, err := s.tokens.Plan(ctx, account.Plan)
	if err != nil {
		return r, err
	}
	tokens, err := s.tokens.AccountTokens(ctx, account.ID)
	if err != nil {
		return r, err
	}
	service, err := s.pins(p)
	if err != nil {
		return r, err
	}
	usage, err := service.Usage(ctx, pins.Account(account.ID))
	if err != nil {
		return r, err
	}
	r = accountReport{accountLine: newAccountLine(account), Tokens: len(tokens), Pins: map[string]int64{}, Bytes: usage.Bytes, Limits: plan.Limits}
	for _, status := range allStatuses() {
		r.Pins[string(status)] = usage.Pins[status]
	}
	return r, nil
}

func (r accountReport) describe(w io.Writer) error {
	rows := [][]string{
		{"name", r.Name},
		{"plan", r.Plan},
		{"state", r.State + " since " + moment(r.Since)},
		{"policy", plain(r.Policy)},
		{"created", moment(r.Created)},
		{"tokens", fmt.Sprint(r.Tokens)},
	}
	for _, status := range allStatuses() {
		rows = append(rows, []string{"pins " + string(status), fmt.Sprint(r.Pins[string(status)])})
	}
	rows = append(rows, []string{"bytes held", readable(r.Bytes)})
	for _, limit := range limitRows(r.Limits) {
		rows = append(rows, []string{"limit " + limit[0], limit[1]})
	}
	return printTable(w, rows)
}

func (p *program) accountState(verb string, state auth.State, short string) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				return explained(s.tokens.SetAccountState(ctx, auth.Operator(), args[0], state), args[0], "")
			})
		},
	}
}

func (p *program) accountPlan() *cobra.Command {
	return &cobra.Command{
		Use:   "plan NAME PLAN",
		Short: "Give an account another plan",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				return explained(s.tokens.SetAccountPlan(ctx, auth.Operator(), args[0], args[1]), args[0], args[1])
			})
		},
	}
}

// explained says which name it was that is not there.
func explained(err error, account, plan string) error {
	switch {
	case errors.Is(err, auth.ErrNotFound):
		return fmt.Errorf("there is no account %q", account)
	case errors.Is(err, auth.ErrNoPlan):
		return fmt.Errorf("there is no plan %q: make it with `frostpin plan set %[1]s`", cmp.Or(plan, "?"))
	}
	return err
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
				return explained(s.tokens.SetAccountPolicy(ctx, auth.Operator(), args[0], policy), args[0], "")
			})
		},
	}
	c.Flags().StringVar(&policy, "policy", "", "The policy for pins that do not say otherwise; empty for none")
	return c
}
