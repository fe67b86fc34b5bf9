package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/filecoin-project/go-state-types/abi"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
)

// A providerLine is a storage provider as it is printed. Amounts are attoFIL per GiB and epoch.
type providerLine struct {
	ID           string     `json:"id"`
	Trust        string     `json:"trust"`
	Region       string     `json:"region,omitempty"`
	RegionSource string     `json:"region_source,omitempty"`
	PriceCap     string     `json:"price_cap,omitempty"`
	MinPiece     int64      `json:"min_piece,omitempty"`
	MaxPiece     int64      `json:"max_piece,omitempty"`
	Concurrency  int        `json:"concurrency,omitempty"`
	HTTP         string     `json:"http,omitempty"`
	PeerID       string     `json:"peer_id,omitempty"`
	Addrs        []string   `json:"addrs,omitempty"`
	Serves       []string   `json:"serves,omitempty"` // base URLs for retrieval, the best first
	SectorSize   int64      `json:"sector_size,omitempty"`
	Ask          *askLine   `json:"ask,omitempty"`
	Probed       *time.Time `json:"probed,omitempty"`
	ProbeError   string     `json:"probe_error,omitempty"`
	Score        float64    `json:"score"`
	Successes    int64      `json:"successes"`
	Failures     int64      `json:"failures"`
	LeftAlone    *time.Time `json:"left_alone_until,omitempty"`
	LastError    string     `json:"last_error,omitempty"`
	ContactPeer  string     `json:"contact_peer,omitempty"`
	ContactAddrs []string   `json:"contact_addrs,omitempty"`
}

// An askLine is what a provider demands.
type askLine struct {
	Price         string `json:"price"`
	VerifiedPrice string `json:"verified_price"`
	MinPiece      int64  `json:"min_piece"`
	MaxPiece      int64  `json:"max_piece"`
	Expiry        int64  `json:"expiry_epoch"`
}

func newProviderLine(p deals.Provider, now time.Time) providerLine {
	line := providerLine{
		ID: p.ID.String(), Trust: string(p.Trust), Region: p.Region, RegionSource: p.RegionSource, MinPiece: int64(p.MinPiece),
		MaxPiece: int64(p.MaxPiece), Concurrency: p.Concurrency, HTTP: p.HTTP, PeerID: p.PeerID, Addrs: p.Addrs,
		Serves:     deals.Holder{HTTP: p.HTTP, Found: p.Found}.URLs(),
		SectorSize: int64(p.SectorSize), ProbeError: p.ProbeError, Score: p.Score, Successes: p.Successes, Failures: p.Failures,
		LastError: p.LastError, ContactPeer: p.Contact.PeerID, ContactAddrs: p.Contact.Addrs,
	}
	if !p.PriceCap.Nil() {
		line.PriceCap = p.PriceCap.String()
	}
	if a := p.Ask; a != nil {
		line.Ask = &askLine{a.Price.String(), a.VerifiedPrice.String(), int64(a.MinPiece), int64(a.MaxPiece), int64(a.Expiry)}
	}
	if !p.ProbedAt.IsZero() {
		line.Probed = &p.ProbedAt
	}
	if p.OpenUntil.After(now) {
		line.LeftAlone = &p.OpenUntil
	}
	return line
}

// state says in a word or two whether the provider can be used.
func (l providerLine) state() string {
	switch {
	case l.Probed == nil:
		return "not asked yet"
	case l.ProbeError != "":
		return "no ask: " + l.ProbeError
	case l.LeftAlone != nil:
		return "left alone until " + moment(*l.LeftAlone)
	}
	return "ok"
}

func (p *program) providersCommand() *cobra.Command {
	return group("providers", "Manage the storage providers that keep cold copies",
		p.providersAdd(), p.providersSet(), p.providersTrust("allow", deals.Allowed, "Use these; as soon as one is allowed, only those are used"),
		p.providersTrust("deny", deals.Denied, "Never use these, whatever else says"), p.providersRemove(), p.providersList(),
		p.providersShow(), p.providersProbe(), p.providersImport(), p.providersExport())
}

// withRegistry opens the registry.
func (p *program) withRegistry(c *cobra.Command, create bool, use func(ctx context.Context, r *deals.Registry) error) error {
	return p.withStore(c, create, func(ctx context.Context, s *store) error { return explain(use(ctx, deals.NewRegistry(s.db, p.now))) })
}

// explain says where the providers are that are known.
func explain(err error) error {
	if errors.Is(err, deals.ErrNoProvider) {
		return fmt.Errorf("%w; `frostpin providers list` shows all", err)
	}
	return err
}

// A decisionFlags are the flags of a decision. Only those that were given count.
type decisionFlags struct {
	trust, region, source, priceCap, minPiece, maxPiece, http, peer string
	addrs                                                           []string
	concurrency                                                     int
}

func (d *decisionFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&d.trust, "trust", "", "neutral, allowed or denied")
	flags.StringVar(&d.region, "region", "", "Where it stores, such as EU or DE")
	flags.StringVar(&d.source, "source", "", "Who says so")
	flags.StringVar(&d.priceCap, "price-cap", "", "Highest price for a GiB and epoch instead of max-price; empty: max-price")
	flags.StringVar(&d.minPiece, "min-piece", "", "Least size of its pieces, a power of two such as 1GiB; 0: what it says")
	flags.StringVar(&d.maxPiece, "max-piece", "", "Largest size of its pieces; 0: what it says")
	flags.IntVar(&d.concurrency, "concurrency", 0, "Deals that are proposed to it or transferred at once; 0: deals-per-provider")
	flags.StringVar(&d.http, "http", "", "Address from which its data is fetched; empty: what it announces")
	flags.StringVar(&d.peer, "peer", "", "Its libp2p peer ID; empty: what the chain says")
	flags.StringSliceVar(&d.addrs, "addr", nil, "Its multiaddresses; empty: what the chain says")
}

// apply changes a decision by the flags that were given.
func (d *decisionFlags) apply(c *cobra.Command, to deals.Decision) (deals.Decision, error) {
	given := c.Flags().Changed
	for name, set := range map[string]func(){
		"trust":       func() { to.Trust = deals.Trust(strings.ToLower(d.trust)) },
		"region":      func() { to.Region = d.region },
		"source":      func() { to.RegionSource = d.source },
		"concurrency": func() { to.Concurrency = d.concurrency },
		"http":        func() { to.HTTP = d.http },
		"peer":        func() { to.PeerID = d.peer },
		"addr":        func() { to.Addrs = d.addrs },
	} {
		if given(name) {
			set()
		}
	}
	if given("price-cap") {
		limit, err := parsePriceCap(d.priceCap)
		if err != nil {
			return to, err
		}
		to.PriceCap = limit
	}
	var err error
	if given("min-piece") {
		to.MinPiece, err = parsePieceSize(d.minPiece)
	}
	if given("max-piece") && err == nil {
		to.MaxPiece, err = parsePieceSize(d.maxPiece)
	}
	return to, err
}

// parsePieceSize reads the size of a piece; the empty text and 0 are none.
func parsePieceSize(text string) (abi.PaddedPieceSize, error) {
	if text == "" {
		return 0, nil
	}
	size, err := parseSize(text)
	if err != nil || size < 0 {
		return 0, fmt.Errorf("the size of a piece: %q is not a size such as 1GiB", text)
	}
	return abi.PaddedPieceSize(size), nil
}

// parsePriceCap reads an amount; the empty text is none.
func parsePriceCap(text string) (abi.TokenAmount, error) {
	if text == "" {
		return abi.TokenAmount{}, nil
	}
	limit, err := parseAmount(text)
	if err != nil {
		return abi.TokenAmount{}, fmt.Errorf("the price cap: %w", err)
	}
	return limit.Tokens(), nil
}

func (p *program) providersAdd() *cobra.Command {
	var flags decisionFlags
	c := &cobra.Command{
		Use:   "add ID...",
		Short: "Add storage providers, such as f01234; a running server asks them for their conditions at once",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseProviders(args)
			if err != nil {
				return err
			}
			template, err := flags.apply(c, deals.Decision{})
			if err != nil {
				return err
			}
			return p.withRegistry(c, true, func(ctx context.Context, r *deals.Registry) error {
				for _, id := range ids {
					template.ID = id
					if err := r.Add(ctx, template); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	flags.add(c)
	return c
}

func (p *program) providersSet() *cobra.Command {
	var flags decisionFlags
	c := &cobra.Command{
		Use:   "set ID...",
		Short: "Change what was decided about storage providers; flags that are not given change nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := flags.apply(c, deals.Decision{}); err != nil {
				return err
			}
			return p.change(c, args, func(d deals.Decision) deals.Decision {
				d, _ = flags.apply(c, d) // it was tried before
				return d
			})
		},
	}
	flags.add(c)
	return c
}

func (p *program) providersTrust(use string, trust deals.Trust, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use + " ID...",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.change(c, args, func(d deals.Decision) deals.Decision {
				d.Trust = trust
				return d
			})
		},
	}
}

// change changes decisions about providers, one after the other.
func (p *program) change(c *cobra.Command, args []string, change func(deals.Decision) deals.Decision) error {
	ids, err := parseProviders(args)
	if err != nil {
		return err
	}
	return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error {
		var failed error
		for _, id := range ids {
			failed = errors.Join(failed, r.Set(ctx, id, change))
		}
		return failed
	})
}

func (p *program) providersRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID...",
		Short: "Remove storage providers with which no deal is alive",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseProviders(args)
			if err != nil {
				return err
			}
			return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error {
				var failed error
				for _, id := range ids {
					failed = errors.Join(failed, r.Remove(ctx, id))
				}
				return failed
			})
		},
	}
}

func (p *program) providersList() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "list",
		Short: "List storage providers with their conditions and how they have served",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error {
				list, err := r.Providers(ctx)
				if err != nil {
					return err
				}
				lines := make([]providerLine, len(list))
				for i, known := range list {
					lines[i] = newProviderLine(known, p.now())
				}
				heading := []string{"ID", "TRUST", "REGION", "PRICE", "LEAST PIECE", "SCORE", "GOOD", "BAD", "SERVES AT", "STATE"}
				return printList(c, lines, heading, func(l providerLine) []string {
					price, least, serves := "", "", ""
					if len(l.Serves) > 0 {
						serves = plain(l.Serves[0])
					}
					if l.Ask != nil {
						price, least = l.Ask.Price, readable(max(l.Ask.MinPiece, l.MinPiece))
					}
					return []string{
						l.ID, l.Trust, l.Region, price, least, strconv.FormatFloat(l.Score, 'f', 2, 64), fmt.Sprint(l.Successes),
						fmt.Sprint(l.Failures), serves, l.state(),
					}
				})
			})
		},
	})
}

func (p *program) providersShow() *cobra.Command {
	return withJSON(&cobra.Command{
		Use:   "show ID",
		Short: "Show all that is known about one storage provider",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseProviders(args)
			if err != nil {
				return err
			}
			return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error {
				known, err := r.Provider(ctx, ids[0])
				if err != nil {
					return err
				}
				line := newProviderLine(known, p.now())
				if wantsJSON(c) {
					return printJSON(p.stdout, line)
				}
				return line.describe(p.stdout)
			})
		},
	})
}

// describe prints one fact per line.
func (l providerLine) describe(w io.Writer) error {
	rows := [][]string{{"id", l.ID}, {"trust", l.Trust}, {"state", plain(l.state())}}
	add := func(name, value string) {
		if value != "" && value != "0" {
			rows = append(rows, []string{name, plain(value)})
		}
	}
	add("region", l.Region)
	add("region according to", l.RegionSource)
	add("price cap", l.PriceCap)
	add("least piece", fmt.Sprint(l.MinPiece))
	add("largest piece", fmt.Sprint(l.MaxPiece))
	add("deals at once", fmt.Sprint(l.Concurrency))
	for _, base := range l.Serves {
		add("retrieval from", base)
	}
	add("peer", l.ContactPeer)
	for _, addr := range l.ContactAddrs {
		add("address", addr)
	}
	add("sector size", fmt.Sprint(l.SectorSize))
	if a := l.Ask; a != nil {
		add("asks for a GiB and epoch", a.Price+" attoFIL, verified "+a.VerifiedPrice+" attoFIL")
		add("takes pieces", fmt.Sprintf("from %s to %s", readable(a.MinPiece), readable(a.MaxPiece)))
		add("ask expires at epoch", fmt.Sprint(a.Expiry))
	}
	if l.Probed != nil {
		add("asked", moment(*l.Probed))
	}
	add("score", fmt.Sprintf("%.2f (%d deals became active, %d did not)", l.Score, l.Successes, l.Failures))
	add("last failure", l.LastError)
	return printTable(w, rows)
}

func parseProviders(texts []string) ([]deals.ProviderID, error) {
	ids := make([]deals.ProviderID, len(texts))
	for i, text := range texts {
		var err error
		if ids[i], err = deals.ParseProvider(text); err != nil {
			return nil, err
		}
	}
	return ids, nil
}
