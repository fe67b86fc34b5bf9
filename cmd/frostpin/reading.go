package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
	"github.com/frostpin/frostpin/retrieval"
	"github.com/frostpin/frostpin/server"
)

// What reads data, and the parts it is made of, in its own words.

// linkKey is the file with the key that signs links.
func (c *Config) linkKey() string { return filepath.Join(c.DataDir, "link.key") }

// recentBytes is memory for what many read at the same time: a hundred usual blocks.
const recentBytes = 32 << 20

// openReading makes what reads DAGs, hot first. cold is nil where nothing is stored cold; doubt is told of roots
// that should be hot and are not whole.
func (p *program) openReading(c *Config, db *database.DB, tier hotTier, cold *coldTier, doubt func(root cid.Cid), log *slog.Logger) (*retrieval.Service, error) {
	private, err := c.privateNetworks()
	if err != nil {
		return nil, err
	}
	parts := retrieval.Parts{Directory: noCopies{}, Store: hotStore{tier}, Network: network{tier}, Codec: codec{hold.NewDecoder()}, DB: db}
	if cold != nil {
		parts.Directory = copies{cold.Service}
	}
	return retrieval.New(retrieval.Config{
		Allow:      private,
		IPNI:       c.IPNIURL,
		BlockSize:  int(c.MaxBlockSize),
		Budget:     budget(c.limits()),
		Recent:     recentBytes,
		ProbeEvery: c.ProbePace,
		Doubt:      doubt,
	}, parts, log, p.now), nil
}

// gateway is what the settings want of it; nil: none.
func (c *Config) gateway(from *retrieval.Service, known *pins.Service, turns *pins.Turns) (*server.Gateway, error) {
	if c.GatewayAccess == string(server.AccessOff) {
		return nil, nil //nolint:nilnil // there is none, and nothing went wrong
	}
	key, err := secretFile(c.linkKey())
	if err != nil {
		return nil, err
	}
	return &server.Gateway{
		Blocks: reader{from}, Roots: known, Access: server.Access(c.GatewayAccess), Fetch: server.Fetch(c.GatewayFetch),
		Trustless: c.GatewayTrustless, Hostnames: c.GatewayHosts, LinkKey: key, URL: c.GatewayURL, Turns: turns,
	}, nil
}

func budget(l pins.Limits) retrieval.Budget {
	return retrieval.Budget{Bytes: l.Bytes, Blocks: l.Blocks, Depth: l.Depth, BlockSize: l.BlockSize}
}

// copies is the deals as retrieval knows them.
type copies struct{ *deals.Service }

func (c copies) Sources(ctx context.Context, root cid.Cid) ([]retrieval.Source, error) {
	holders, err := c.Holders(ctx, root)
	if err != nil {
		return nil, err
	}
	var list, denied []retrieval.Source
	for _, h := range holders {
		from := retrieval.Source{
			Provider: h.Provider.String(), URLs: h.URLs(),
			Piece: h.Piece.CIDv1, Offset: h.Offset, Length: h.Piece.CARSize,
		}
		if h.Trust == deals.Denied {
			denied = append(denied, from)
		} else {
			list = append(list, from)
		}
	}
	if len(list) == 0 {
		return denied, nil // who is used no more may still have the only copy
	}
	return list, nil
}

func (c copies) Copies(ctx context.Context, after retrieval.CopyRef, n int) ([]retrieval.CopyRef, error) {
	from := deals.CopyRef{Root: after.Root}
	if after.Provider != "" {
		id, err := deals.ParseProvider(after.Provider)
		if err != nil {
			return nil, fmt.Errorf("reading a copy's provider: %w", err)
		}
		from.Provider = id
	}
	page, err := c.Service.Copies(ctx, from, n)
	if err != nil {
		return nil, err
	}
	list := make([]retrieval.CopyRef, len(page))
	for i, ref := range page {
		list[i] = retrieval.CopyRef{Root: ref.Root, Provider: ref.Provider.String()}
	}
	return list, nil
}

// noCopies is the directory of a service that stores nothing cold.
type noCopies struct{}

func (noCopies) Sources(context.Context, cid.Cid) ([]retrieval.Source, error) { return nil, nil }

func (noCopies) Copies(context.Context, retrieval.CopyRef, int) ([]retrieval.CopyRef, error) {
	return nil, nil
}

// hotStore is the hot tier as retrieval knows it.
type hotStore struct{ pins.HotTier }

func (s hotStore) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := s.HotTier.Block(ctx, c)
	switch {
	case errors.Is(err, pins.ErrAbsent):
		return nil, fmt.Errorf("%w: %w", retrieval.ErrAbsent, err)
	case errors.Is(err, pins.ErrCorrupt):
		return nil, fmt.Errorf("%w: %w", retrieval.ErrCorrupt, err)
	}
	return data, err
}

// Put stores blocks that nothing may want to keep: what is only read is collected with the rest, and a DAG that is being
// restored keeps what is below its root.
func (s hotStore) Put(ctx context.Context, list []blocks.Block) (err error) {
	in, err := s.Import(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, in.Close)
	return in.Put(ctx, list)
}

// network is the IPFS network as retrieval knows it.
type network struct{ pins.HotTier }

// codec is what DAGs are made of, as retrieval knows it.
type codec struct{ decoder hold.Decoder }

func (codec) Admit(c cid.Cid) error                             { return hold.Admit(c) }
func (codec) Inline(c cid.Cid) ([]byte, bool)                   { return hold.Identity(c) }
func (k codec) Links(c cid.Cid, data []byte) ([]cid.Cid, error) { return k.decoder.Links(c, data) }

// coldReader is retrieval as pins know it.
type coldReader struct{ *retrieval.Service }

var _ pins.ColdSource = coldReader{}

func (r coldReader) Restore(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	var told, toldBytes int64
	err := r.Service.Restore(ctx, root, budget(lim), func(blocks, bytes int64) {
		p.Add(blocks-told, bytes-toldBytes)
		told, toldBytes = blocks, bytes
	})
	var refused *retrieval.RefusedError
	switch {
	case errors.Is(err, retrieval.ErrNoSource):
		return fmt.Errorf("%w: %w", pins.ErrAbsent, err)
	case errors.As(err, &refused):
		return &pins.Refused{Reason: refused.Reason}
	}
	return err
}

func (r coldReader) Prove(ctx context.Context, root cid.Cid) error {
	_, err := r.Service.Prove(ctx, root)
	if errors.Is(err, retrieval.ErrUnasked) {
		return fmt.Errorf("%w: %w", pins.ErrUnavailable, err)
	}
	return err
}

// reader is retrieval as the gateway knows it.
type reader struct{ *retrieval.Service }

var _ server.Blocks = reader{}

func (reader) WithRoot(ctx context.Context, root cid.Cid) context.Context {
	return retrieval.WithRoot(ctx, root)
}

func (reader) WithTrail(ctx context.Context) (context.Context, server.Trail) {
	return retrieval.WithTrail(ctx)
}

func (reader) Fault(err error) server.Fault {
	var failed *retrieval.FailedError
	if !errors.As(err, &failed) {
		return server.FaultNone
	}
	switch failed.Class {
	case retrieval.Absent:
		return server.FaultAbsent
	case retrieval.Refused:
		return server.FaultRefused
	case retrieval.Slow:
		return server.FaultSlow
	case retrieval.Busy:
		return server.FaultBusy
	}
	return server.FaultNone
}
