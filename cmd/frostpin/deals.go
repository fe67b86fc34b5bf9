package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// A dealLine is a deal as it is printed. Amounts are attoFIL.
type dealLine struct {
	UUID       string     `json:"uuid"`
	CID        string     `json:"cid"`
	Provider   string     `json:"provider"`
	Protocol   string     `json:"protocol"`
	State      string     `json:"state"`
	Reason     string     `json:"reason,omitempty"`
	Verbatim   string     `json:"provider_message,omitempty"`
	DealID     uint64     `json:"deal_id,omitempty"`
	Proposal   string     `json:"proposal_cid,omitempty"`
	Publish    string     `json:"publish_message,omitempty"`
	Piece      string     `json:"piece_cid,omitempty"`
	PieceSize  int64      `json:"piece_size,omitempty"`
	Sector     *uint64    `json:"sector,omitempty"`
	Start      int64      `json:"start_epoch,omitempty"`
	End        int64      `json:"end_epoch,omitempty"`
	Price      string     `json:"price_per_epoch,omitempty"`
	Cost       string     `json:"cost,omitempty"`
	Collateral string     `json:"provider_collateral,omitempty"`
	Verified   bool       `json:"verified"`
	Reserved   string     `json:"reserved,omitempty"`
	Generation int        `json:"generation"`
	Height     int64      `json:"seen_at_height,omitempty"`
	Planned    time.Time  `json:"planned"`
	Sent       *time.Time `json:"sent,omitempty"`
	Accepted   *time.Time `json:"accepted,omitempty"`
	Pulled     *time.Time `json:"pulled,omitempty"`
	Published  *time.Time `json:"published,omitempty"`
	Active     *time.Time `json:"active,omitempty"`
	Ended      *time.Time `json:"ended,omitempty"`
	Next       *time.Time `json:"next_look,omitempty"`
}

func newDealLine(a deals.Attempt) dealLine {
	l := dealLine{
		UUID: a.UUID.String(), CID: a.Root.String(), Provider: a.Provider.String(), Protocol: a.Protocol, State: string(a.State),
		Reason: a.Reason, Verbatim: a.Verbatim, DealID: uint64(a.DealID), Start: int64(a.Start), End: int64(a.End), Verified: a.Verified,
		Generation: a.Generation, Height: int64(a.Height), Planned: a.PlannedAt,
		Sent: given(a.SentAt), Accepted: given(a.AcceptedAt), Pulled: given(a.PulledAt), Published: given(a.PublishedAt),
		Active: given(a.ActiveAt), Ended: given(a.EndedAt),
	}
	for from, into := range map[cid.Cid]*string{a.ProposalCID: &l.Proposal, a.PublishCID: &l.Publish, a.Piece.CIDv1: &l.Piece} {
		if from.Defined() {
			*into = from.String()
		}
	}
	l.PieceSize = int64(a.Piece.Size)
	if a.ProposalCID.Defined() {
		l.Price, l.Cost, l.Collateral = a.Price.String(), a.Cost().String(), a.Collateral.String()
	}
	if !a.Reserved.Nil() && !a.Reserved.IsZero() {
		l.Reserved = a.Reserved.String()
	}
	if !a.ActiveAt.IsZero() {
		sector := uint64(a.Sector)
		l.Sector = &sector
	}
	if !a.State.Final() {
		l.Next = given(a.NextAt)
	}
	return l
}

// given is a time that may be missing.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (p *program) dealsCommand() *cobra.Command {
	return group("deals", "List, show, retry and cancel deals", p.dealsList(), p.dealsShow(), p.dealsRetry(), p.dealsCancel())
}

// withDeals opens the service for what is in the database. It sees neither chain nor providers.
func (p *program) withDeals(c *cobra.Command, use func(ctx context.Context, service *deals.Service) error) error {
	return p.withStore(c, false, func(ctx context.Context, s *store) error {
		service, err := s.dealer(p)
		if err != nil {
			return err
		}
		return use(ctx, service)
	})
}

// dealer is the deal service over this database, beside one that runs: it sends nothing.
func (s *store) dealer(p *program) (*deals.Service, error) {
	cfg := deals.Config{Policy: s.config.dealPolicy(), Caps: s.config.dealCaps(), MaxReplicas: s.config.MaxReplicas, Secret: make([]byte, secretSize)}
	return deals.New(cfg, s.db, deals.Parts{}, slog.New(slog.DiscardHandler), p.now)
}

func (p *program) dealsList() *cobra.Command {
	var states []string
	var provider, root string
	var limit int
	c := withJSON(&cobra.Command{
		Use:   "list",
		Short: "List deals and tries, newest first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			filter, err := dealFilter(states, provider, root)
			if err != nil {
				return err
			}
			if limit < 0 {
				return errors.New("--limit must not be negative")
			}
			return p.withDeals(c, func(ctx context.Context, service *deals.Service) error {
				heading := []string{"UUID", "STATE", "PROVIDER", "DEAL", "END", "CID", "REASON"}
				return printStream(c, dealLines(ctx, service, filter, limit), heading, func(l dealLine) []string {
					id := ""
					if l.DealID != 0 {
						id = fmt.Sprint(l.DealID)
					}
					return []string{l.UUID, l.State, l.Provider, id, number(int(l.End)), l.CID, l.Reason}
				})
			})
		},
	})
	flags := c.Flags()
	flags.StringSliceVar(&states, "state", nil, "Only those in these states: "+strings.Join(stateNames(), ", "))
	flags.StringVar(&provider, "provider", "", "Only those with this storage provider, such as f01234")
	flags.StringVar(&root, "cid", "", "Only those of this DAG")
	flags.IntVar(&limit, "limit", 0, "At most so many; 0 means all")
	return c
}

func stateNames() []string {
	var names []string
	for _, s := range deals.States() {
		names = append(names, string(s))
	}
	return names
}

func dealFilter(states []string, provider, root string) (f deals.Filter, err error) {
	for _, text := range states {
		state := deals.State(strings.ToLower(text))
		if !slices.Contains(deals.States(), state) {
			return f, fmt.Errorf("%q is not a state: %s", text, strings.Join(stateNames(), ", "))
		}
		if !slices.Contains(f.States, state) {
			f.States = append(f.States, state)
		}
	}
	if provider != "" {
		if f.Provider, err = deals.ParseProvider(provider); err != nil {
			return f, err
		}
	}
	if root != "" {
		f.Root, err = parseRoot(root)
	}
	return f, err
}

// parseRoot reads a CID as deals know it.
func parseRoot(text string) (cid.Cid, error) {
	root, err := cid.Decode(text)
	if err != nil {
		return cid.Undef, fmt.Errorf("%q is not a CID", text)
	}
	return spec.Canonical(root), nil
}

// dealLines yields deals page after page, at most limit unless that is 0.
func dealLines(ctx context.Context, service *deals.Service, filter deals.Filter, limit int) iter.Seq2[dealLine, error] {
	return func(yield func(dealLine, error) bool) {
		filter.Limit = pageSize
		for n := 0; ; {
			page, err := service.List(ctx, filter)
			if err != nil {
				yield(dealLine{}, err)
				return
			}
			for _, a := range page {
				if n++; !yield(newDealLine(a), nil) || n == limit {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			filter.Before = page[len(page)-1].ID
		}
	}
}

func (p *program) dealsShow() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "show UUID",
		Short: "Show all that is known about one deal",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := uuid.Parse(args[0])
			if err != nil {
				return fmt.Errorf("%q is not the UUID of a deal; `frostpin deals list` shows them", args[0])
			}
			return p.withDeals(c, func(ctx context.Context, service *deals.Service) error {
				a, err := service.Find(ctx, id)
				if errors.Is(err, deals.ErrNotFound) {
					return fmt.Errorf("there is no deal %s", id)
				}
				if err != nil {
					return err
				}
				if wantsJSON(c) {
					return printJSON(p.stdout, newDealLine(a))
				}
				return newDealLine(a).describe(p.stdout)
			})
		},
	})
}

// describe prints one fact per line.
func (l dealLine) describe(w io.Writer) error {
	rows := [][]string{{"uuid", l.UUID}, {"state", l.State}}
	add := func(name, value string) {
		if value != "" && value != "0" {
			rows = append(rows, []string{name, plain(value)})
		}
	}
	at := func(name string, t *time.Time) {
		if t != nil {
			add(name, moment(*t))
		}
	}
	add("reason", l.Reason)
	add("provider says", l.Verbatim)
	add("cid", l.CID)
	add("provider", l.Provider)
	add("protocol", l.Protocol)
	add("try", fmt.Sprint(l.Generation))
	add("deal", fmt.Sprint(l.DealID))
	if l.Sector != nil {
		rows = append(rows, []string{"sector", fmt.Sprint(*l.Sector)})
	}
	add("proposal", l.Proposal)
	add("publish message", l.Publish)
	add("piece", l.Piece)
	add("piece size", fmt.Sprint(l.PieceSize))
	add("start epoch", fmt.Sprint(l.Start))
	add("end epoch", fmt.Sprint(l.End))
	if l.Price != "" {
		rows = append(rows, []string{"price", l.Price + " attoFIL per epoch, " + l.Cost + " attoFIL in all"})
	}
	add("provider's collateral", l.Collateral)
	if l.Verified {
		add("verified", "yes")
	}
	add("reserved", l.Reserved)
	add("seen on chain at", fmt.Sprint(l.Height))
	add("planned", moment(l.Planned))
	at("sent", l.Sent)
	at("accepted", l.Accepted)
	at("fetched", l.Pulled)
	at("published", l.Published)
	at("active", l.Active)
	at("ended", l.Ended)
	at("next look", l.Next)
	return printTable(w, rows)
}

func (p *program) dealsRetry() *cobra.Command {
	return &cobra.Command{
		Use:   "retry CID...",
		Short: "Try the missing copies of DAGs again now, forgiving what has failed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			roots := make([]cid.Cid, len(args))
			for i, text := range args {
				var err error
				if roots[i], err = parseRoot(text); err != nil {
					return err
				}
			}
			return p.withDeals(c, func(ctx context.Context, service *deals.Service) error {
				for _, root := range roots {
					n, err := service.Retry(ctx, root)
					if errors.Is(err, deals.ErrNotFound) {
						return fmt.Errorf("nobody wants cold copies of %s", root)
					}
					if err != nil {
						return err
					}
					if _, err := fmt.Fprintf(p.stdout, "%s: %d copies are looked at again\n", root, n); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (p *program) dealsCancel() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel UUID...",
		Short: "Cancel deals that have not been proposed yet; a proposal cannot be called back",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids := make([]uuid.UUID, len(args))
			for i, text := range args {
				var err error
				if ids[i], err = uuid.Parse(text); err != nil {
					return fmt.Errorf("%q is not the UUID of a deal; `frostpin deals list` shows them", text)
				}
			}
			return p.withDeals(c, func(ctx context.Context, service *deals.Service) error {
				var failed error
				for _, id := range ids {
					err := service.Cancel(ctx, id)
					if errors.Is(err, deals.ErrNotFound) {
						err = fmt.Errorf("there is no deal %s", id)
					}
					failed = errors.Join(failed, err)
				}
				return failed
			})
		},
	}
}
