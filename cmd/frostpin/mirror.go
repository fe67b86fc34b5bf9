package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/frostpin/frostpin/spec"
)

// policyPrefix begins the keys of meta that a Frostpin reads as orders.
const policyPrefix = "frostpin."

func (p *program) mirrorCommand() *cobra.Command {
	var from, token string
	var to serverFlags
	var statuses []string
	var m mirror
	c := withJSON(&cobra.Command{
		Use:   "mirror --from URL --token TOKEN",
		Short: "Copy the pins of another pinning service",
		Long: `Copy the pins of another pinning service: their CIDs, names and meta, with the service's own nodes as the
places to fetch from.

It can be run again at any time: pins that are here already, by CID and name, are left alone. The data comes over the
IPFS network while the new pins are queued. It exits with 1 when pins could not be copied.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			wanted := []spec.Status{spec.Pinned}
			var err error
			if len(statuses) > 0 {
				if wanted, err = parseStatuses(statuses); err != nil {
					return err
				}
			}
			if from == "" || token == "" {
				return errors.New("name the other service with --from, and a token of it with --token")
			}
			if m.from, err = newService(from, token); err != nil {
				return fmt.Errorf("--from: %w", err)
			}
			if m.to, err = p.connect(c, to); err != nil {
				return err
			}
			m.summary.verb = "copied"
			if m.dry {
				m.summary.verb = "to copy"
			}
			stop := m.summary.watch(p.stderr)
			err = m.run(c.Context(), wanted)
			stop()
			return p.conclude(c, &m.summary, err)
		},
	})
	flags := c.Flags()
	flags.StringVar(&from, "from", "", "The other service, as it is given to IPFS nodes, such as https://api.pinata.cloud/psa")
	flags.StringVar(&token, "token", "", "An access token of the other service")
	flags.StringVar(&to.server, "to", "", "The server to copy to (default: $FROSTPIN_SERVER, else the one that runs on data-dir)")
	flags.StringVar(&to.token, "to-token", "", "An access token of it (default: $FROSTPIN_TOKEN)")
	flags.StringSliceVar(&statuses, "status", nil, "Copy pins in these states: queued, pinning, pinned, failed (default: pinned)")
	flags.BoolVar(&m.keepPolicy, "keep-policy", false, "Copy the keys of meta that begin with "+policyPrefix+", which order cold copies")
	flags.BoolVar(&m.dry, "dry-run", false, "Copy nothing, say what would be")
	return c
}

// conclude prints a summary and fails when the work or a part of it did.
func (p *program) conclude(c *cobra.Command, s *summary, failed error) error {
	var err error
	if wantsJSON(c) {
		err = printJSON(p.stdout, s)
	} else {
		err = s.print(p.stdout)
	}
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	if s.Failed > 0 {
		return errReported
	}
	return nil
}

// A mirror copies pins from one service to another. It remembers nothing: what has been copied is found at the other
// end, so that it goes on where an earlier run was ended, however that was.
type mirror struct {
	from, to        *api
	keepPolicy, dry bool
	summary         summary
}

func (m *mirror) run(ctx context.Context, statuses []spec.Status) error {
	var pending []wanted
	for row, err := range m.from.list(ctx, statuses) {
		if err != nil {
			return errors.Join(m.copy(ctx, pending), fmt.Errorf("the other service: %w", err))
		}
		if pending = append(pending, m.translate(row)); len(pending) == batch {
			if err := m.copy(ctx, pending); err != nil {
				return err
			}
			pending = pending[:0]
		}
	}
	return m.copy(ctx, pending)
}

// translate makes the request for a copy of a pin. Who has it are the nodes of the service that holds it.
func (m *mirror) translate(row pinned) wanted {
	w := wanted{CID: row.Pin.CID, Name: row.Pin.Name, Meta: maps.Clone(row.Pin.Meta), Origins: row.Delegates}
	if !m.keepPolicy {
		maps.DeleteFunc(w.Meta, func(key, _ string) bool { return strings.HasPrefix(key, policyPrefix) })
	}
	if len(w.Origins) > 20 {
		w.Origins = w.Origins[:20]
	}
	return w
}

// copy copies a batch.
func (m *mirror) copy(ctx context.Context, pins []wanted) error {
	if len(pins) == 0 {
		return ctx.Err()
	}
	have, err := m.to.present(ctx, pins)
	if err != nil {
		return err
	}
	var missing []wanted
	for _, w := range pins {
		if _, ok := have[w.same()]; ok {
			m.summary.skipped()
			continue
		}
		have[w.same()] = pinned{} // the same may come twice in a batch
		missing = append(missing, w)
	}
	return each(ctx, missing, func(ctx context.Context, w wanted) error {
		if m.dry {
			m.summary.done()
			return nil
		}
		_, err := m.to.post(ctx, w)
		if err == nil {
			m.summary.done()
			return nil
		}
		if m.summary.hopeless(ctx, err) {
			return fmt.Errorf("copying %s: %w", w.CID, err)
		}
		m.summary.failed("", w, err)
		return nil
	})
}
