package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/heat"
	"github.com/frostpin/frostpin/retrieval"
)

// A residentLine is a DAG as `hot` prints it.
type residentLine struct {
	CID      string     `json:"cid"`
	Hot      pins.Hot   `json:"hot_status"`
	Bytes    int64      `json:"bytes"`
	Reads    float64    `json:"reads"` // half of which are forgotten in a week
	LastRead *time.Time `json:"last_read,omitempty"`
	LetGo    *time.Time `json:"let_go,omitempty"`
	Proven   *time.Time `json:"cold_copy_read_back,omitempty"`
	Worth    float64    `json:"worth"` // the lowest goes first
	Stays    string     `json:"stays_because,omitempty"`
}

// A hotReport is what `hot` prints.
type hotReport struct {
	Quota int64          `json:"quota_bytes"` // 0: no bound
	Used  int64          `json:"used_bytes"`
	DAGs  []hotSum       `json:"dags"`
	Held  []hotSum       `json:"held"`
	Next  []residentLine `json:"next"`
}

type hotSum struct {
	What  string `json:"what"`
	DAGs  int64  `json:"dags"`
	Bytes int64  `json:"bytes"`
}

func (p *program) hotCommand() *cobra.Command {
	next := 10
	c := withAllSettings(withJSON(&cobra.Command{
		Use:   "hot [CID]",
		Short: "Show what is hot, why, and what would go next",
		Long: `Show what is hot, why, and what would go next.

With hot-quota, hot copies are let go when the quota is nearly used up, if all the Filecoin deals that their pins asked
for are proven, one of the copies was read back within a week, and no pin asks for them to be kept. Those go first that
are read least for the room they take. They are read from Filecoin then, and those that are read again come back.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				service, err := s.tierless(ctx, p)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					return p.showResident(ctx, c, service, args[0])
				}
				o, err := service.Occupancy(ctx, next)
				if err != nil {
					return err
				}
				report := reportHot(o)
				if wantsJSON(c) {
					return printJSON(p.stdout, report)
				}
				return report.describe(p.stdout)
			})
		},
	}))
	c.Flags().IntVar(&next, "next", next, "How many of those that would go next are listed")
	return c
}

// tierless is the service over this database, for reading, with what a server knows but the hot tier: also when cold copies
// were read back.
func (s *store) tierless(ctx context.Context, p *program) (*pins.Service, error) {
	log := slog.New(slog.DiscardHandler)
	config, err := pinsConfig(s.config, "")
	if err != nil {
		return nil, err
	}
	if s.config.coldOffered() {
		if config.Archive, err = s.dealer(p); err != nil {
			return nil, err
		}
		reading := retrieval.New(retrieval.Config{}, retrieval.Parts{DB: s.db}, log, p.now)
		config.ColdSource = coldReader{reading}
		err = reading.Recall(ctx)
	}
	return pins.New(config, s.db, nil, log, p.now), err
}

func (p *program) showResident(ctx context.Context, c *cobra.Command, service *pins.Service, text string) error {
	root, err := cid.Decode(text)
	if err != nil {
		return fmt.Errorf("%q is no CID", text)
	}
	r, err := service.Resident(ctx, root)
	if errors.Is(err, pins.ErrNotFound) {
		return fmt.Errorf("no pin names %s", root)
	}
	if err != nil {
		return err
	}
	line := lineOf(r)
	if wantsJSON(c) {
		return printJSON(p.stdout, line)
	}
	stays := line.Stays
	if stays == "" && r.Hot == pins.HotHeld {
		stays = "there is room; it may go"
	}
	_, err = fmt.Fprintf(p.stdout, "cid           %s\nstate         %s\nsize          %s\nreads         %.1f\nlast read     %s\nlet go        %s\ncopy read     %s\nstays because %s\n",
		line.CID, line.Hot, readable(line.Bytes), line.Reads, orNever(r.LastRead), orNever(r.LetGo), orNever(r.Proven), stays)
	return err
}

func orNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return moment(t)
}

func lineOf(r pins.Resident) residentLine {
	line := residentLine{
		CID: r.Root.String(), Hot: r.Hot, Bytes: r.Bytes, Reads: r.Reads, Worth: r.Priority,
		LastRead: since(r.LastRead), LetGo: since(r.LetGo), Proven: since(r.Proven),
	}
	if r.Hot == pins.HotHeld {
		line.Stays = string(r.Ground)
	}
	return line
}

// since is a time that may be missing.
func since(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func reportHot(o pins.Occupancy) hotReport {
	r := hotReport{Quota: o.Quota, Used: o.Sums[pins.HotHeld].Bytes + o.Sums[pins.HotRestoring].Bytes, Next: []residentLine{}}
	for _, hot := range pins.Hots() {
		if s := o.Sums[hot]; s.DAGs > 0 {
			r.DAGs = append(r.DAGs, hotSum{string(hot), s.DAGs, s.Bytes})
		}
	}
	for _, g := range pins.Grounds() {
		if s := o.Held[g]; s.DAGs > 0 {
			what := "stays: " + string(g)
			if g == pins.GroundNone {
				what = "may go when room is needed"
			}
			r.Held = append(r.Held, hotSum{what, s.DAGs, s.Bytes})
		}
	}
	for _, n := range o.Next {
		r.Next = append(r.Next, lineOf(n))
	}
	return r
}

func (r *hotReport) describe(w io.Writer) error {
	var b strings.Builder
	if r.Quota == 0 {
		fmt.Fprintf(&b, "%s are used; there is no hot-quota, so that only what is wanted cold only is let go\n", readable(r.Used))
	} else {
		fmt.Fprintf(&b, "%s of %s are used (%.0f %%); from %.0f %% on DAGs are let go, down to %.0f %%\n", readable(r.Used), readable(r.Quota),
			100*float64(r.Used)/float64(r.Quota), 100*heat.High, 100*heat.Low)
	}
	for _, block := range []struct {
		title string
		sums  []hotSum
	}{{"DAGs", r.DAGs}, {"Held", r.Held}} {
		fmt.Fprintf(&b, "\n%s\n", block.title)
		for _, s := range block.sums {
			fmt.Fprintf(&b, "  %10d  %10s  %s\n", s.DAGs, readable(s.Bytes), s.What)
		}
	}
	if len(r.Next) > 0 {
		fmt.Fprintf(&b, "\nNext to go\n")
	}
	for _, n := range r.Next {
		read := "never read"
		if n.LastRead != nil {
			read = fmt.Sprintf("%.1f reads, last %s", n.Reads, moment(*n.LastRead))
		}
		fmt.Fprintf(&b, "  %10s  %s  %s\n", readable(n.Bytes), n.CID, read)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
