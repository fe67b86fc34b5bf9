package main

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/auth/events"
	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/pins"
)

// journal lets pins record events.
type journal struct{ events *events.Service }

// Record implements pins.Journal.
func (j journal) Record(ctx context.Context, root cid.Cid, terms deals.TermsID, kind string, data map[string]any) error {
	return j.events.Record(ctx, events.Change{Root: root.String(), Part: int64(terms), Kind: kind, Data: data})
}

// RecordFor implements pins.Journal.
func (j journal) RecordFor(ctx context.Context, account pins.Account, root cid.Cid, kind string, data map[string]any) error {
	return j.events.Record(ctx, events.Change{Account: int64(account), Root: root.String(), Kind: kind, Data: data})
}

// pinNames lets events ask which pins they are about. Its service is there before anybody reads.
type pinNames struct{ service *pins.Service }

// Named implements events.Pins.
func (n *pinNames) Named(ctx context.Context, account int64, roots []string) (map[string]bool, error) {
	return n.service.Names(ctx, pins.Account(account), roots)
}

// Naming implements events.Pins.
func (n *pinNames) Naming(ctx context.Context, account int64, of events.Naming, after string, limit int) ([]events.Pin, error) {
	found, err := n.service.Naming(ctx, pins.Account(account), pins.Naming{
		Root: of.Root, Terms: deals.TermsID(of.Part), By: of.By, After: pins.ID(after), Limit: limit,
	})
	if err != nil {
		return nil, err
	}
	list := make([]events.Pin, len(found))
	for i, p := range found {
		list[i] = events.Pin{ID: string(p.ID), CID: p.CID}
		if p.Name != nil {
			list[i].Name = *p.Name
		}
	}
	return list, nil
}
