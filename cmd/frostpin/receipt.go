package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals/receipt"
)

func (p *program) receiptCommand() *cobra.Command {
	return group("receipt", "Check receipts of cold copies", p.receiptVerify())
}

// receiptFlags say what to look at besides the receipt.
type receiptFlags struct{ car, gateway, lotus, token, key, temp string }

func (p *program) receiptVerify() *cobra.Command {
	var f receiptFlags
	c := withJSON(&cobra.Command{
		Use:   "verify FILE",
		Short: "Check a receipt without the service that issued it; - reads from the standard input",
		Long: `Check a receipt without the service that issued it; - reads from the standard input.

From the file alone: that the service has signed it and no byte has changed since, that the client has signed each
proposal, and that the proposals are for the pieces that the receipt describes. With --car or --gateway: that these
pieces are the DAG. With --lotus: that the deals are on chain and active; any node will do, a public one too.

It exits with 1 when something is wrong. What was not looked at is listed as open.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			content, err := readFileOr(c.InOrStdin(), args[0])
			if err != nil {
				return fmt.Errorf("reading the receipt: %w", err)
			}
			return p.verifyReceipt(c, content, f)
		},
	})
	flags := c.Flags()
	flags.StringVar(&f.car, "car", "", "A CAR with the data")
	flags.StringVar(&f.gateway, "gateway", "", "A trustless IPFS gateway to fetch the data from, such as https://ipfs.io")
	flags.StringVar(&f.lotus, "lotus", "", "A Lotus node to ask, such as wss://api.node.glif.io/rpc/v1")
	flags.StringVar(&f.token, "lotus-token", "", "Its token, if it wants one")
	flags.StringVar(&f.key, "key", "", "The did:key that the service publishes")
	flags.StringVar(&f.temp, "temp", os.TempDir(), "Where to put the data while it is looked at")
	c.MarkFlagsMutuallyExclusive("car", "gateway")
	return c
}

func (p *program) verifyReceipt(c *cobra.Command, content []byte, f receiptFlags) error {
	options := receipt.Options{Key: f.key, Now: p.now()}
	switch {
	case f.car != "":
		path, err := filepath.Abs(f.car)
		if err != nil {
			return err
		}
		options.Data = receipt.File{Path: path, Dir: f.temp}
	case f.gateway != "":
		if err := checkURL(f.gateway); err != nil {
			return fmt.Errorf("--gateway: %w", err)
		}
		options.Data = receipt.Gateway{URL: f.gateway, Dir: f.temp}
	}
	ctx := c.Context()
	if f.lotus != "" {
		if !isEndpoint(f.lotus) {
			return errors.New("--lotus: it is not an address such as wss://api.node.glif.io/rpc/v1")
		}
		node, stop, err := receipt.Dial(ctx, f.lotus, f.token)
		if err != nil {
			return err
		}
		defer stop()
		options.Node = node
	}
	return p.printReport(ctx, c, content, options)
}

// printReport checks, prints what was found, and fails when something is wrong.
func (p *program) printReport(ctx context.Context, c *cobra.Command, content []byte, o receipt.Options) error {
	report, failed := receipt.Verify(ctx, content, o)
	if wantsJSON(c) {
		if err := printJSON(p.stdout, report.Findings); err != nil {
			return err
		}
	} else {
		var rows [][]string
		for _, found := range report.Findings {
			rows = append(rows, []string{string(found.Verdict), plain(found.What), plain(found.Detail)})
		}
		if err := printTable(p.stdout, rows); err != nil {
			return err
		}
	}
	if failed == nil && !report.OK() {
		return errors.New("the receipt is not right")
	}
	return failed
}
