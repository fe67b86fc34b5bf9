package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
)

// A planLine is a plan as it is printed.
type planLine struct {
	Name    string      `json:"name"`
	Limits  auth.Limits `json:"limits"`
	Created time.Time   `json:"created"`

	Unreadable bool `json:"unreadable,omitempty"`
}

func (p *program) planCommand() *cobra.Command {
	return group("plan", "Name the limits that accounts have", p.planSet(), p.planList(), p.planShow())
}

func (p *program) planSet() *cobra.Command {
	var limits auth.Limits
	var bytes, uploadBytes, dagBytes, egressBytes, grace string
	var rates, prices []string
	var anew bool
	c := &cobra.Command{
		Use:   "set NAME",
		Short: "Make a plan or change it",
		Long: `Make a plan or change it. What is not said stays as it was; 0 is no bound but the server's own.

Requests are bounded by kind: status (one pin, its deals and receipt), list, write (adding, replacing and removing pins,
signing links), upload, read (content that is read with a token) and account (tokens and administration). --rate
write=10/50 lets 50 come at once and 10 in every second; --rate write=0 lifts the bound.

With at least one price the accounts of a plan pay in advance for what they use: --price hot_gib_month=0.02 is credits per GiB
and 30 days, --price free_hot_gib_month=5 how much of it is free in each month; --price hot_gib_month= takes it back. The names
are hot_gib_month, cold_gib_month, egress_hot_gib, egress_cold_gib and fil, and each of them with free_ before it.

An account whose balance is empty and that stores what it does not pay for keeps it for --grace 30d, and is told three times
when it will be let go. Then its pins fail, the newest first, until the rest costs nothing; a payment brings them back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, true, func(ctx context.Context, s *store) error {
				var plan auth.Plan
				var err error
				if !anew {
					plan, err = s.tokens.Plan(ctx, args[0])
				}
				if errors.Is(err, auth.ErrUnreadable) {
					return fmt.Errorf("%w; say all that it shall have, with --anew", err)
				}
				if err != nil && !errors.Is(err, auth.ErrNoPlan) {
					return err
				}
				flags, set := c.Flags(), &plan.Limits
				if flags.Changed("pins") {
					set.Pins = limits.Pins
				}
				if flags.Changed("pins-in-flight") {
					set.PinsInFlight = limits.PinsInFlight
				}
				if flags.Changed("dag-blocks") {
					set.DAGBlocks = limits.DAGBlocks
				}
				if err := errors.Join(setSize(&set.Bytes, bytes), setSize(&set.UploadBytes, uploadBytes), setSize(&set.DAGBytes, dagBytes),
					setSize(&set.EgressBytes, egressBytes), setGrace(set, grace), setRates(set, rates), setPrices(set, prices)); err != nil {
					return err
				}
				return s.tokens.SetPlan(ctx, auth.Operator(), args[0], *set)
			})
		},
	}
	flags := c.Flags()
	flags.BoolVar(&anew, "anew", false, "Forget all limits and prices that are not said, also those that cannot be read")
	flags.Int64Var(&limits.Pins, "pins", 0, "Pins at once")
	flags.Int64Var(&limits.PinsInFlight, "pins-in-flight", 0, "Pins that wait for their data")
	flags.StringVar(&bytes, "bytes", "", "Bytes held, such as 100GiB, each DAG counted once")
	flags.StringVar(&uploadBytes, "upload-bytes", "", "Bytes of one upload, such as 4GiB")
	flags.StringVar(&dagBytes, "dag-bytes", "", "Bytes of the DAG of one pin, such as 10GiB")
	flags.Int64Var(&limits.DAGBlocks, "dag-blocks", 0, "Blocks of the DAG of one pin")
	flags.StringVar(&egressBytes, "egress-bytes", "", "Bytes sent to readers with its tokens and links in a calendar month, such as 1TiB")
	flags.StringVar(&grace, "grace", "", "How long a balance may be empty before pins are let go, in days such as 30d; 0: they never are")
	flags.StringArrayVar(&rates, "rate", nil, "Requests of one kind, such as write=10/50; may be given again")
	flags.StringArrayVar(&prices, "price", nil, "What something costs, such as hot_gib_month=0.02; may be given again")
	return c
}

// setPrices reads NAME=AMOUNT, or NAME= for a price that is to go.
func setPrices(limits *auth.Limits, texts []string) error {
	prices := maps.Clone(limits.Prices)
	if prices == nil {
		prices = map[string]string{}
	}
	for _, text := range texts {
		name, amount, said := strings.Cut(text, "=")
		switch {
		case !said:
			return fmt.Errorf("--price %s: it is not like hot_gib_month=0.02 or hot_gib_month=", text)
		case amount == "":
			delete(prices, name)
		default:
			prices[name] = amount
		}
	}
	limits.Prices = prices
	_, err := ledger.ParsePrices(prices)
	return err
}

// setSize sets what was said.
func setSize(bytes *int64, text string) error {
	if text == "" {
		return nil
	}
	size, err := parseSize(text)
	*bytes = int64(size)
	return err
}

// setGrace reads a number of days.
func setGrace(limits *auth.Limits, text string) error {
	if text == "" {
		return nil
	}
	days, err := strconv.ParseUint(strings.TrimSuffix(text, "d"), 10, 31)
	if err != nil || !strings.HasSuffix(text, "d") && days != 0 {
		return fmt.Errorf("--grace %s: it is not like 30d or 0", text)
	}
	limits.GraceDays = int64(days) //nolint:gosec // 31 bits
	return nil
}

// setRates reads KIND=PER_SECOND/BURST or KIND=0.
func setRates(limits *auth.Limits, texts []string) error {
	rates := maps.Clone(limits.Rates)
	if rates == nil {
		rates = map[auth.Kind]auth.Rate{}
	}
	for _, text := range texts {
		kind, value, _ := strings.Cut(text, "=")
		if value == "0" {
			delete(rates, auth.Kind(kind))
			continue
		}
		perSecond, burst, _ := strings.Cut(value, "/")
		var rate auth.Rate
		var err, burstErr error
		rate.PerSecond, err = strconv.ParseFloat(perSecond, 64)
		rate.Burst, burstErr = strconv.Atoi(burst)
		if err != nil || burstErr != nil {
			return fmt.Errorf("--rate %s: it is not like write=10/50 or write=0", text)
		}
		rates[auth.Kind(kind)] = rate
	}
	limits.Rates = rates
	return nil
}

func (p *program) planList() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "list",
		Short: "List plans",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				plans, err := s.tokens.Plans(ctx)
				if err != nil {
					return err
				}
				lines := make([]planLine, len(plans))
				for i, plan := range plans {
					lines[i] = planLine(plan)
				}
				heading := []string{"NAME", "PINS", "IN FLIGHT", "BYTES", "UPLOAD", "RATES", "GRACE"}
				return printList(c, lines, heading, func(l planLine) []string {
					if l.Unreadable {
						return []string{l.Name, "cannot be read", "", "", "", "", ""}
					}
					return []string{
						l.Name, number(int(l.Limits.Pins)), number(int(l.Limits.PinsInFlight)),
						size(l.Limits.Bytes), size(l.Limits.UploadBytes), number(len(l.Limits.Rates)), graceDays(l.Limits),
					}
				})
			})
		},
	})
}

func (p *program) planShow() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "show NAME",
		Short: "Show the limits of a plan",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				plan, err := s.tokens.Plan(ctx, args[0])
				switch {
				case err != nil:
					return explained(err, "", args[0])
				case wantsJSON(c):
					return printJSON(p.stdout, planLine(plan))
				}
				return printTable(p.stdout, append([][]string{{"name", plan.Name}}, limitRows(plan.Limits)...))
			})
		},
	})
}

// size is a number of bytes that may say nothing.
func size(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return Size(bytes).String()
}

// graceDays is a grace period, or nothing.
func graceDays(l auth.Limits) string {
	if l.GraceDays == 0 {
		return ""
	}
	return number(int(l.GraceDays)) + "d"
}

// limitRows are limits, one a row. What has no bound is not there.
func limitRows(l auth.Limits) (rows [][]string) {
	for _, limit := range [][]string{
		{"pins", number(int(l.Pins))},
		{"pins in flight", number(int(l.PinsInFlight))},
		{"bytes", size(l.Bytes)},
		{"upload bytes", size(l.UploadBytes)},
		{"dag bytes", size(l.DAGBytes)},
		{"dag blocks", number(int(l.DAGBlocks))},
		{"egress bytes", size(l.EgressBytes)},
		{"grace", graceDays(l)},
	} {
		if limit[1] != "" {
			rows = append(rows, limit)
		}
	}
	for _, kind := range auth.Kinds() {
		if rate, bounded := l.Rates[kind]; bounded {
			rows = append(rows, []string{"rate " + string(kind), fmt.Sprintf("%v/s, burst %d", rate.PerSecond, rate.Burst)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Prices)) {
		rows = append(rows, []string{"price " + name, l.Prices[name]})
	}
	return rows
}
