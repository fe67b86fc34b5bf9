package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// A pinLine is a pin as it is printed.
type pinLine struct {
	ID      string            `json:"requestid"`
	Account string            `json:"account"`
	Status  string            `json:"status"`
	CID     string            `json:"cid"`
	Name    string            `json:"name,omitempty"`
	Created time.Time         `json:"created"`
	Info    map[string]string `json:"info,omitempty"`
	Meta    map[string]string `json:"meta,omitempty"`
	Origins []string          `json:"origins,omitempty"`
}

func newPinLine(account string, p pins.Pin) pinLine {
	line := pinLine{
		ID: string(p.ID), Account: account, Status: string(p.Status()), CID: p.CID, Created: p.Created,
		Info: p.Info(), Meta: p.Meta, Origins: p.Origins,
	}
	if p.Name != nil {
		line.Name = *p.Name
	}
	return line
}

func (p *program) pinsCommand() *cobra.Command {
	return group("pins", "List and show pins", p.pinsList(), p.pinsShow())
}

// pageSize is how many pins are read at once.
const pageSize = 1000

func (p *program) pinsList() *cobra.Command {
	var account string
	var statuses []string
	var limit int
	c := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List pins, newest first within each account",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			wanted, err := parseStatuses(statuses)
			if err != nil {
				return err
			}
			if limit < 0 {
				return errors.New("--limit must not be negative")
			}
			return p.withPins(c, account, func(ctx context.Context, service *pins.Service, accounts []auth.Account) error {
				heading := []string{"REQUESTID", "ACCOUNT", "STATUS", "CID", "CREATED", "NAME"}
				return printStream(c, pinLines(ctx, service, accounts, wanted, limit), heading, func(l pinLine) []string {
					return []string{l.ID, l.Account, l.Status, l.CID, moment(l.Created), l.Name}
				})
			})
		},
	})
	c.Flags().StringVar(&account, "account", "", "Only the pins of this account")
	c.Flags().StringSliceVar(&statuses, "status", nil, "Only pins in these states: queued, pinning, pinned, failed")
	c.Flags().IntVar(&limit, "limit", 0, "At most so many; 0 means all")
	return c
}

// pinLines yields the pins of the accounts, at most limit unless that is 0.
func pinLines(ctx context.Context, service *pins.Service, accounts []auth.Account, statuses []spec.Status, limit int) iter.Seq2[pinLine, error] {
	return func(yield func(pinLine, error) bool) {
		n := 0
		for _, a := range accounts {
			for pin, err := range pages(ctx, service, a, statuses) {
				if err != nil {
					yield(pinLine{}, err)
					return
				}
				if n++; !yield(newPinLine(a.Name, pin), nil) || n == limit {
					return
				}
			}
		}
	}
}

// pages reads the pins of one account page after page, each strictly before the last pin of the one before.
func pages(ctx context.Context, service *pins.Service, a auth.Account, statuses []spec.Status) iter.Seq2[pins.Pin, error] {
	return func(yield func(pins.Pin, error) bool) {
		query := spec.Query{Statuses: statuses, Match: spec.Exact, Limit: pageSize}
		for {
			page, err := service.List(ctx, pins.Account(a.ID), query)
			if err != nil {
				yield(pins.Pin{}, fmt.Errorf("listing the pins of account %s: %w", a.Name, err))
				return
			}
			for _, pin := range page.Pins {
				if !yield(pin, nil) {
					return
				}
			}
			if int64(len(page.Pins)) >= page.Count { // a page with much text ends before the limit
				return
			}
			before := page.Pins[len(page.Pins)-1].Created.UnixMilli()
			query.BeforeMS = &before
		}
	}
}

func (p *program) pinsShow() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "show REQUESTID",
		Short: "Show all that is known about one pin",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withPins(c, "", func(ctx context.Context, service *pins.Service, accounts []auth.Account) error {
				for _, a := range accounts {
					pin, err := service.Get(ctx, pins.Account(a.ID), pins.ID(args[0]))
					switch {
					case errors.Is(err, pins.ErrNotFound):
					case err != nil:
						return fmt.Errorf("looking up the pin: %w", err)
					case wantsJSON(c):
						return printJSON(p.stdout, newPinLine(a.Name, pin))
					default:
						return newPinLine(a.Name, pin).describe(p.stdout)
					}
				}
				return fmt.Errorf("there is no pin %q", args[0])
			})
		},
	})
}

// describe prints one fact per line.
func (l pinLine) describe(w io.Writer) error {
	rows := [][]string{
		{"requestid", l.ID},
		{"account", l.Account},
		{"status", l.Status},
		{"cid", l.CID},
		{"name", plain(l.Name)},
		{"created", moment(l.Created)},
	}
	for _, key := range slices.Sorted(maps.Keys(l.Info)) {
		rows = append(rows, []string{key, plain(l.Info[key])})
	}
	for _, key := range slices.Sorted(maps.Keys(l.Meta)) {
		rows = append(rows, []string{"meta " + plain(key), plain(l.Meta[key])})
	}
	for _, origin := range l.Origins {
		rows = append(rows, []string{"origin", plain(origin)})
	}
	return printTable(w, rows)
}

// withPins opens the service for reading. It has no hot tier: what it is asked is in the database.
func (p *program) withPins(c *cobra.Command, account string, use func(context.Context, *pins.Service, []auth.Account) error) error {
	return p.withStore(c, false, func(ctx context.Context, s *store) error {
		accounts, err := s.tokens.Accounts(ctx)
		if err != nil {
			return err
		}
		if account != "" {
			accounts = slices.DeleteFunc(accounts, func(a auth.Account) bool { return a.Name != account })
			if len(accounts) == 0 {
				return fmt.Errorf("there is no account %q", account)
			}
		}
		service, err := s.pins(p)
		if err != nil {
			return err
		}
		return use(ctx, service, accounts)
	})
}

// pins is the service over this database, for reading.
func (s *store) pins(p *program) (*pins.Service, error) {
	log := slog.New(slog.DiscardHandler)
	config, err := pinsConfig(s.config, "")
	if err == nil && s.config.coldOffered() {
		config.Archive, err = s.dealer(p)
	}
	if err != nil {
		return nil, err
	}
	return pins.New(config, s.db, nil, log, p.now), nil
}

// allStatuses are the states of a pin in the order in which it passes through them.
func allStatuses() []spec.Status {
	return []spec.Status{spec.Queued, spec.Pinning, spec.Pinned, spec.Failed}
}

func parseStatuses(texts []string) ([]spec.Status, error) {
	if len(texts) == 0 {
		return allStatuses(), nil
	}
	var statuses []spec.Status
	for _, text := range texts {
		status := spec.Status(strings.ToLower(text))
		if !slices.Contains(allStatuses(), status) {
			return nil, fmt.Errorf("%q is not a status: queued, pinning, pinned or failed", text)
		}
		if !slices.Contains(statuses, status) {
			statuses = append(statuses, status)
		}
	}
	return statuses, nil
}
