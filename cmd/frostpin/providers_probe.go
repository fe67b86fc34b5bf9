package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/deals"
)

// probePatience is how long `providers probe` waits for the server's answers.
const probePatience = time.Minute

func (p *program) providersProbe() *cobra.Command {
	return &cobra.Command{
		Use:   "probe [ID...]",
		Short: "Have the running server ask storage providers now, and print what they say; without ID: all that are not denied",
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := parseProviders(args)
			if err != nil {
				return err
			}
			settings, err := p.settings(c)
			if err != nil {
				return err
			}
			if here, err := running(settings.DataDir); err != nil {
				return err
			} else if here == nil {
				return errors.New("no server is running on this data directory: it is the server that asks; start it with `frostpin serve`")
			}
			return p.withRegistry(c, false, func(ctx context.Context, r *deals.Registry) error { return p.probe(ctx, r, ids) })
		},
	}
}

// probe waits for answers that are later than its call.
func (p *program) probe(ctx context.Context, r *deals.Registry, ids []deals.ProviderID) error {
	if len(ids) == 0 {
		list, err := r.Providers(ctx)
		if err != nil {
			return err
		}
		for _, known := range list {
			if known.Trust != deals.Denied {
				ids = append(ids, known.ID)
			}
		}
	}
	began := p.now().Truncate(time.Millisecond)
	if err := r.Probe(ctx, ids...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var failed error
	for len(ids) > 0 {
		known, err := r.Provider(ctx, ids[0])
		switch {
		case err != nil:
			return err
		case known.ProbedAt.Before(began):
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return fmt.Errorf("the server has not asked %s within %s: its log says why", ids[0], probePatience)
			}
			continue
		case known.ProbeError != "":
			failed = errors.Join(failed, fmt.Errorf("%s: %s", ids[0], plain(known.ProbeError)))
		default:
			a := known.Ask
			_, err := fmt.Fprintf(p.stdout, "%s asks %s attoFIL for a GiB and epoch, verified %s, for pieces from %s to %s\n", known.ID, a.Price,
				a.VerifiedPrice, readable(int64(a.MinPiece)), readable(int64(a.MaxPiece)))
			if err != nil {
				return err
			}
		}
		ids = ids[1:]
	}
	return failed
}
