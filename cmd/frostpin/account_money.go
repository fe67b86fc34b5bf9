package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/auth"
	"github.com/frostpin/frostpin/auth/ledger"
)

func (p *program) accountCredit() *cobra.Command {
	var key, note string
	var correction bool
	c := &cobra.Command{
		Use:   "credit NAME AMOUNT --key KEY",
		Short: "Book what an account has paid in, or a correction",
		Long: `Book what an account has paid in, in credits such as 12.50. The key names the payment: what has the same key is booked once,
however often it is said. With --correction the amount may also be below zero; put it behind -- then.

What the account could not pay for before is tried again: by the server that runs on this database, or by the next one.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			amount, err := ledger.ParseAmount(args[1])
			if err != nil {
				return err
			}
			return p.withMoney(c, args[0], func(ctx context.Context, s *store, account auth.Account, books *ledger.Service) error {
				book := books.Credit
				if correction {
					book = books.Adjust
				}
				e, fresh, err := book(ctx, account.ID, amount, "operator/"+key, note, func(ctx context.Context) error {
					return s.tokens.NoteCredit(ctx, auth.Operator(), account.Name, amount.String(), key)
				})
				if err != nil {
					return err
				}
				said := "booked"
				if !fresh {
					said = "was booked before"
				}
				_, err = fmt.Fprintf(p.stdout, "%s %s; the balance was %s after it\n", e.Amount, said, e.Balance)
				return err
			})
		},
	}
	c.Flags().StringVar(&key, "key", "", "Names the payment, such as the number of an invoice")
	c.Flags().StringVar(&note, "note", "", "Words that the account sees")
	c.Flags().BoolVar(&correction, "correction", false, "It is not a payment")
	if err := c.MarkFlagRequired("key"); err != nil {
		panic(err) // only for a flag that does not exist
	}
	return c
}

// withMoney opens the books for a command about one account.
func (p *program) withMoney(c *cobra.Command, name string, use func(ctx context.Context, s *store, account auth.Account, books *ledger.Service) error) error {
	return p.withStore(c, false, func(ctx context.Context, s *store) error {
		account, err := s.tokens.AccountByName(ctx, name)
		if err != nil {
			return explained(err, name, "")
		}
		return use(ctx, s, account, newLedger(s.db, s.tokens, p.now, p.logger(s.config)))
	})
}

// A statementReport is a month of an account as it is printed.
type statementReport struct {
	Account string          `json:"account"`
	From    time.Time       `json:"from"`
	To      time.Time       `json:"to"`
	Opening string          `json:"opening"`
	Lines   []statementLine `json:"lines"`
	Closing string          `json:"closing"`
}

type statementLine struct {
	Kind    string `json:"kind"`
	Entries int64  `json:"entries"`
	Qty     string `json:"qty"`
	Free    string `json:"free"`
	Amount  string `json:"amount"`
	Waived  string `json:"waived"`
}

func (p *program) accountStatement() *cobra.Command {
	var month string
	c := withJSON(&cobra.Command{
		Use:   "statement NAME",
		Short: "Sum up a month of what an account has used and paid",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			at := p.now()
			if month != "" {
				var err error
				if at, err = time.Parse("2006-01", month); err != nil {
					return errors.New("--month is like 2026-11")
				}
			}
			return p.withMoney(c, args[0], func(ctx context.Context, _ *store, account auth.Account, books *ledger.Service) error {
				st, err := books.Statement(ctx, account.ID, at)
				if err != nil {
					return err
				}
				r := statementReport{Account: account.Name, From: st.From, To: st.To, Opening: st.Opening.String(), Lines: []statementLine{}, Closing: st.Closing.String()}
				for _, l := range st.Lines {
					r.Lines = append(r.Lines, statementLine{string(l.Kind), l.Entries, l.Qty.String(), l.Free.String(), l.Amount.String(), l.Waived.String()})
				}
				if wantsJSON(c) {
					return printJSON(p.stdout, r)
				}
				rows := [][]string{{"KIND", "ENTRIES", "QUANTITY", "FREE", "AMOUNT", "WAIVED"}, {"opening balance", "", "", "", r.Opening, ""}}
				for _, l := range r.Lines {
					rows = append(rows, []string{l.Kind, fmt.Sprint(l.Entries), l.Qty, l.Free, l.Amount, l.Waived})
				}
				return printTable(p.stdout, append(rows, []string{"closing balance", "", "", "", r.Closing, ""}))
			})
		},
	})
	c.Flags().StringVar(&month, "month", "", "Such as 2026-11 (UTC); the running month when it is not given")
	return c
}
