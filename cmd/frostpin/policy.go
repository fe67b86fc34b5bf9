package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
)

// A policyLine is a policy as it is printed. What it says nothing about is left out.
type policyLine struct {
	Name      string             `json:"name"`
	Off       bool               `json:"off,omitempty"`
	Replicas  int                `json:"replicas,omitempty"`
	Regions   []string           `json:"regions,omitempty"`
	Providers []deals.ProviderID `json:"providers,omitempty"`
	Days      int                `json:"days,omitempty"`
	Hot       string             `json:"hot,omitempty"`
	Changed   time.Time          `json:"changed"`
}

func (p *program) policyCommand() *cobra.Command {
	return group("policy", "Name what is wanted of cold copies", p.policySet(), p.policyList(), p.policyRemove())
}

func (p *program) policySet() *cobra.Command {
	var policy pins.ColdPolicy
	var providers []string
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a policy or change it",
		Long: `Make a policy or change it. Pins that were made under it before keep what they asked for.

A policy says how many copies a pin gets on Filecoin, where and for how long; what it leaves open is decided by the
settings of the server. It also says whether the hot copy stays. It counts for the accounts and tokens that are given it, and for every pin that is added at the
endpoint ADDRESS/policy/NAME. What a pin says in its own meta is stronger.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, text := range providers {
				id, err := deals.ParseProvider(text)
				if err != nil {
					return err
				}
				policy.Terms.Providers = append(policy.Terms.Providers, id)
			}
			if f := c.Flags(); f.Changed("replicas") && policy.Terms.Replicas == 0 {
				return errors.New("--replicas must be at least 1; for no copies at all give --off")
			}
			policy.Terms = policy.Terms.Canonical()
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				if err := p.policies(s).Set(ctx, args[0], policy); err != nil {
					return err
				}
				_, err := fmt.Fprintf(p.stdout, "policy %s is set; its endpoint is %s/policy/%s\n",
					args[0], s.config.Endpoint(s.config.Listen), args[0])
				return err
			})
		},
	}
	flags := c.Flags()
	flags.BoolVar(&policy.Off, "off", false, "No copies on Filecoin")
	flags.IntVar(&policy.Terms.Replicas, "replicas", 0, "Number of copies, each with another storage provider")
	flags.StringSliceVar(&policy.Terms.Regions, "regions", nil, "Regions of the copies in turn, such as DE,US")
	flags.StringSliceVar(&providers, "providers", nil, "The only storage providers to use, such as f01000,f01001")
	flags.StringVar(&policy.Hot, "hot-copy", "", "Whether the hot copy stays: keep, auto (as there is room) or cold-only (not longer than deals need it)")
	flags.IntVar(&policy.Terms.Days, "days", 0, fmt.Sprintf("How long each deal lasts, from %d to %d", deals.MinDays, deals.MaxDays))
	return c
}

func (p *program) policyList() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "list",
		Short: "List policies",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				list, err := p.policies(s).List(ctx)
				if err != nil {
					return err
				}
				heading := []string{"NAME", "REPLICAS", "REGIONS", "PROVIDERS", "DAYS", "HOT", "CHANGED"}
				return printList(c, policyLines(list), heading, func(l policyLine) []string {
					replicas := number(l.Replicas)
					if l.Off {
						replicas = "off"
					}
					var providers []string
					for _, id := range l.Providers {
						providers = append(providers, id.String())
					}
					return []string{l.Name, replicas, strings.Join(l.Regions, ","), strings.Join(providers, ","), number(l.Days), l.Hot, moment(l.Changed)}
				})
			})
		},
	})
}

func (p *program) policyRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a policy that no account and no token has",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				use, err := s.tokens.PolicyUses(ctx, args[0])
				if err != nil {
					return err
				}
				if use.Accounts+use.Tokens > 0 {
					return fmt.Errorf("policy %q is that of %d accounts and %d tokens: give them another or revoke them first",
						args[0], use.Accounts, use.Tokens)
				}
				err = p.policies(s).Remove(ctx, args[0])
				if errors.Is(err, pins.ErrNoPolicy) {
					return fmt.Errorf("there is no policy %q", args[0])
				}
				return err
			})
		},
	}
}

func (p *program) policies(s *store) *pins.Policies { return pins.NewPolicies(s.db, p.now) }

// checkPolicy makes sure that a policy exists before an account or a token gets it. The empty name is none.
func (p *program) checkPolicy(ctx context.Context, s *store, name string) error {
	if name == "" {
		return nil
	}
	_, err := p.policies(s).Get(ctx, name)
	if errors.Is(err, pins.ErrNoPolicy) {
		return fmt.Errorf("there is no policy %q: make it with `frostpin policy set %s`", name, name)
	}
	return err
}

func policyLines(list []pins.NamedPolicy) []policyLine {
	lines := make([]policyLine, len(list))
	for i, n := range list {
		t := n.Terms
		lines[i] = policyLine{n.Name, n.Off, t.Replicas, t.Regions, t.Providers, t.Days, n.Hot, n.Changed}
	}
	return lines
}

// number is a number that may say nothing.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
