package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/frostpin/frostpin/deals"
)

// A providersDocument is the file of `providers import` and `export`: what the operator has decided, nothing else.
type providersDocument struct {
	Providers []providerEntry `yaml:"providers"`
}

// A providerEntry is one provider of it. Sizes are written like 1GiB, the price cap like 50000000 or 0.1FIL.
type providerEntry struct {
	ID          string   `yaml:"id"`
	Trust       string   `yaml:"trust,omitempty"`
	Region      string   `yaml:"region,omitempty"`
	Source      string   `yaml:"source,omitempty"`
	PriceCap    string   `yaml:"price-cap,omitempty"`
	MinPiece    string   `yaml:"min-piece,omitempty"`
	MaxPiece    string   `yaml:"max-piece,omitempty"`
	Concurrency int      `yaml:"concurrency,omitempty"`
	HTTP        string   `yaml:"http,omitempty"`
	Peer        string   `yaml:"peer,omitempty"`
	Addrs       []string `yaml:"addrs,omitempty"`
}

func newProviderEntry(d deals.Decision) providerEntry {
	e := providerEntry{
		ID: d.ID.String(), Region: d.Region, Source: d.RegionSource, Concurrency: d.Concurrency, HTTP: d.HTTP, Peer: d.PeerID, Addrs: d.Addrs,
	}
	if d.Trust != deals.Neutral {
		e.Trust = string(d.Trust)
	}
	if !d.PriceCap.Nil() {
		e.PriceCap = d.PriceCap.String()
	}
	if d.MinPiece > 0 {
		e.MinPiece = Size(d.MinPiece).String()
	}
	if d.MaxPiece > 0 {
		e.MaxPiece = Size(d.MaxPiece).String()
	}
	return e
}

func (e providerEntry) decision() (deals.Decision, error) {
	d := deals.Decision{
		Trust: deals.Trust(e.Trust), Region: e.Region, RegionSource: e.Source, Concurrency: e.Concurrency, HTTP: e.HTTP, PeerID: e.Peer, Addrs: e.Addrs,
	}
	var err error
	if d.ID, err = deals.ParseProvider(e.ID); err != nil {
		return d, err
	}
	if d.PriceCap, err = parsePriceCap(e.PriceCap); err != nil {
		return d, fmt.Errorf("%s: %w", d.ID, err)
	}
	if d.MinPiece, err = parsePieceSize(e.MinPiece); err != nil {
		return d, fmt.Errorf("%s: %w", d.ID, err)
	}
	if d.MaxPiece, err = parsePieceSize(e.MaxPiece); err != nil {
		return d, fmt.Errorf("%s: %w", d.ID, err)
	}
	return d, nil
}

// readProviders reads the document. What it does not know is an error: a misspelled key would silently decide nothing.
func readProviders(in io.Reader) ([]deals.Decision, error) {
	decoder := yaml.NewDecoder(in)
	decoder.KnownFields(true)
	var document providersDocument
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the list of providers: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading the list of providers: there is more than one document")
	}
	list := make([]deals.Decision, len(document.Providers))
	var wrong error
	for i, e := range document.Providers {
		d, err := e.decision()
		wrong = errors.Join(wrong, err)
		list[i] = d
	}
	return list, wrong
}

func (p *program) providersImport() *cobra.Command {
	var prune bool
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Make the registry as a file says, all or nothing; - reads from the standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			content, err := readFileOr(c.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			list, err := readProviders(bytes.NewReader(content))
			if err != nil {
				return err
			}
			return p.withRegistry(c, true, func(ctx context.Context, r *deals.Registry) error {
				changes, err := r.Apply(ctx, list, prune)
				if err != nil {
					return err
				}
				for _, done := range []struct {
					word string
					ids  []deals.ProviderID
				}{{"added", changes.Added}, {"changed", changes.Changed}, {"removed", changes.Removed}, {"denied", changes.Denied}} {
					for _, id := range done.ids {
						if _, err := fmt.Fprintln(p.stdout, done.word, id); err != nil {
							return err
						}
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&prune, "prune", false, "Remove providers that the file does not name; those with live deals are denied")
	return c
}

func (p *program) providersExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Print the registry as a file for import",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error {
				list, err := r.Providers(ctx)
				if err != nil {
					return err
				}
				document := providersDocument{Providers: []providerEntry{}}
				for _, known := range list {
					document.Providers = append(document.Providers, newProviderEntry(known.Decision()))
				}
				encoder := yaml.NewEncoder(p.stdout)
				encoder.SetIndent(2)
				return errors.Join(encoder.Encode(document), encoder.Close())
			})
		},
	}
}

// readFileOr reads a file, or the standard input where its name is -.
func readFileOr(stdin io.Reader, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}
