package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/filecoin-project/go-address"
	"github.com/filecoin-project/go-state-types/abi"
	fbig "github.com/filecoin-project/go-state-types/big"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/deals/chain"
)

// A fundsReport is all that is known of money. Amounts are attoFIL, datacap is bytes.
type fundsReport struct {
	Chain      *chainFunds `json:"chain,omitempty"`
	ChainError string      `json:"chain_error,omitempty"` // why the chain says nothing
	Reserved   string      `json:"reserved"`              // by proposals that are not published yet
	Today      spending    `json:"today"`
	Month      spending    `json:"month"`
	Movements  []movement  `json:"movements"`
}

type chainFunds struct {
	Wallet  string `json:"wallet"`
	Escrow  string `json:"escrow"`
	Locked  string `json:"locked"`
	Free    string `json:"free"` // of escrow: neither locked nor reserved
	Datacap string `json:"datacap"`
}

// A spending is what a period has cost, and what it may.
type spending struct {
	Deals      string `json:"deals"`
	DealsLimit string `json:"deals_limit"`
	Moved      string `json:"moved_to_market"`
	MovedLimit string `json:"moved_to_market_limit,omitempty"`
}

type movement struct {
	UUID    string    `json:"uuid"`
	Amount  string    `json:"amount"`
	State   string    `json:"state"`
	Message string    `json:"message,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Created time.Time `json:"created"`
}

const (
	// shownMovements is how many are shown.
	shownMovements = 10
	// fundsPatience is how long the node may take.
	fundsPatience = 15 * time.Second
)

func (p *program) fundsCommand() *cobra.Command {
	c := withAllSettings(withJSON(&cobra.Command{
		Use:   "funds",
		Short: "Show wallet, escrow, what is reserved and what was spent",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				books, err := deals.NewTreasury(s.db, p.now).Books(ctx, shownMovements)
				if err != nil {
					return fmt.Errorf("reading the books: %w", err)
				}
				report := newFundsReport(s.config, books)
				have, err := p.funds(ctx, s.config)
				if err != nil {
					report.ChainError = err.Error()
				} else {
					report.Chain = newChainFunds(have, books.Reserved)
				}
				if wantsJSON(c) {
					return printJSON(p.stdout, report)
				}
				return report.describe(p.stdout)
			})
		},
	}))
	c.AddCommand(p.fundsGiveUp())
	return c
}

func (p *program) fundsGiveUp() *cobra.Command {
	return &cobra.Command{
		Use:   "give-up UUID",
		Short: "End a movement whose message will never be on chain, so that another one can be made",
		Long: `End a movement to the market whose message will never be on chain, so that another one can be made.

Make sure of it first: a message that is still in some node's pool may get on chain later, and then the same amount has
been moved twice. Money in the market is not lost; it can be withdrawn or pays for deals.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := uuid.Parse(args[0])
			if err != nil {
				return fmt.Errorf("%q is not the UUID of a movement; `frostpin funds` shows them", args[0])
			}
			return p.withStore(c, false, func(ctx context.Context, s *store) error {
				return deals.NewTreasury(s.db, p.now).GiveUp(ctx, id)
			})
		},
	}
}

// funds asks the node of the settings. A devnet inside a server has no address of its own that could be known here.
func (p *program) funds(ctx context.Context, c *Config) (deals.Funds, error) {
	if c.LotusURL == "" {
		return deals.Funds{}, errors.New("no lotus-url is set, so nobody can be asked")
	}
	wallet, err := address.NewFromString(c.Wallet)
	if err != nil {
		return deals.Funds{}, fmt.Errorf("reading the wallet's address: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fundsPatience)
	defer cancel()
	node := chain.Config{URL: c.LotusURL, Token: c.LotusToken.Reveal(), Network: c.FilecoinNetwork, Wallet: wallet, Now: p.now}
	lotus, err := chain.Open(ctx, node, slog.New(slog.DiscardHandler))
	if err != nil {
		return deals.Funds{}, err
	}
	defer lotus.Close()
	return lotus.Funds(ctx)
}

func newChainFunds(f deals.Funds, reserved abi.TokenAmount) *chainFunds {
	free := fbig.Sub(fbig.Sub(f.Escrow, f.Locked), reserved)
	return &chainFunds{
		Wallet: f.Wallet.String(), Escrow: f.Escrow.String(), Locked: f.Locked.String(), Free: free.String(), Datacap: f.Datacap.String(),
	}
}

func newFundsReport(c *Config, b deals.Books) fundsReport {
	r := fundsReport{
		Reserved: b.Reserved.String(),
		Today: spending{
			Deals: b.Today.Deals.String(), DealsLimit: c.MaxDayCost.Tokens().String(),
			Moved: b.Today.Escrow.String(), MovedLimit: c.MaxDayEscrow.Tokens().String(),
		},
		Month:     spending{Deals: b.Month.Deals.String(), DealsLimit: c.MaxMonthCost.Tokens().String(), Moved: b.Month.Escrow.String()},
		Movements: []movement{},
	}
	for _, op := range b.Ops {
		m := movement{UUID: op.UUID.String(), Amount: op.Amount.String(), State: string(op.State), Reason: op.Reason, Created: op.Created}
		if op.Message.Defined() {
			m.Message = op.Message.String()
		}
		r.Movements = append(r.Movements, m)
	}
	return r
}

// describe prints one fact per line, in FIL.
func (r fundsReport) describe(w io.Writer) error {
	rows := [][]string{}
	add := func(name, value string) { rows = append(rows, []string{name, value}) }
	if r.Chain == nil {
		add("wallet, escrow", "unknown: "+plain(r.ChainError))
	} else {
		add("wallet", inFIL(r.Chain.Wallet))
		add("escrow", inFIL(r.Chain.Escrow))
		add("locked by deals", inFIL(r.Chain.Locked))
	}
	add("reserved for proposals", inFIL(r.Reserved))
	if r.Chain != nil {
		add("free escrow", inFIL(r.Chain.Free))
		if r.Chain.Datacap != "0" {
			add("datacap", r.Chain.Datacap+" bytes")
		}
	}
	add("deals today", outOf(r.Today.Deals, r.Today.DealsLimit))
	add("deals this month", outOf(r.Month.Deals, r.Month.DealsLimit))
	add("moved to the market today", outOf(r.Today.Moved, r.Today.MovedLimit))
	for _, m := range r.Movements {
		add("movement "+m.UUID, fmt.Sprintf("%s %s at %s %s%s", inFIL(m.Amount), m.State, moment(m.Created), m.Message, m.Reason))
	}
	return printTable(w, rows)
}

// outOf names a limit where this command knows one: those that a server was given as flags it does not.
func outOf(spent, limit string) string {
	if limit == "0" {
		return inFIL(spent)
	}
	return inFIL(spent) + " of " + inFIL(limit)
}

// inFIL writes an amount of attoFIL for people.
func inFIL(attoFIL string) string {
	v, err := fbig.FromString(attoFIL)
	if err != nil {
		return attoFIL
	}
	return deals.FIL(v)
}
