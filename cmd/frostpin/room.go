package main

import (
	"context"
	"path/filepath"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/disk"
	"github.com/frostpin/frostpin/pins"
)

// What the disk guard means to the other parts.

// disk is what is watched: everything below the data directory, wherever it is mounted, and a SQLite file elsewhere.
func (c *Config) disk() disk.Config {
	dirs := []string{c.DataDir}
	if c.Hot == hotEmbedded {
		dirs = append(dirs, c.hotDir())
	}
	if dialect, err := database.DialectOf(string(c.Database)); err == nil && dialect == database.SQLite {
		dirs = append(dirs, filepath.Dir(string(c.Database)))
	}
	return disk.Config{Dirs: dirs, Reserve: int64(c.DiskReserve), Watermark: c.DiskWatermark}
}

// rooms is what the levels mean to pins.
var rooms = map[disk.Level]pins.Room{disk.Roomy: pins.RoomPlenty, disk.Scarce: pins.RoomScarce, disk.Full: pins.RoomNone}

// A roomyTier takes no blocks from elsewhere while the disk is full: uploads that run end, and what readers fetch is
// given to them without being kept.
type roomyTier struct {
	hotTier
	guard *disk.Guard
}

func (t roomyTier) Import(ctx context.Context) (pins.Import, error) {
	in, err := t.hotTier.Import(ctx)
	if err != nil {
		return nil, err
	}
	return roomyImport{in, t.guard}, nil
}

type roomyImport struct {
	pins.Import
	guard *disk.Guard
}

func (i roomyImport) Put(ctx context.Context, list []blocks.Block) error {
	if pins.MakesRoom(ctx) { // the reserve is for this
		return unlessEnded(ctx, func() error { return i.Import.Put(ctx, list) })
	}
	if i.guard.Level() == disk.Full {
		return pins.ErrNoSpace
	}
	return unlessFull(i.guard, func() error { return i.Import.Put(ctx, list) })
}

// Hold is what a request may wait for when everything is here already.
func (t roomyTier) Hold(ctx context.Context, root cid.Cid, lim pins.Limits, p *pins.Progress) error {
	if !lim.Offline {
		return t.hotTier.Hold(ctx, root, lim, p)
	}
	return unlessFull(t.guard, func() error { return t.hotTier.Hold(ctx, root, lim, p) })
}

// How long a write that was begun before the disk was full is waited for, and how often it is looked whether it is.
const (
	fullPatience = 2 * time.Second
	fullLook     = 250 * time.Millisecond
)

// unlessEnded does what writes to the node's store, and leaves it when ctx ends.
func unlessEnded(ctx context.Context, write func() error) error {
	done := make(chan error, 1)
	go func() { done <- write() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unlessFull does what writes to the node's store. The store waits for room when there is none, and cannot be told to
// stop: the caller is told so instead, and what was begun goes on by itself when it can, which harms nothing.
func unlessFull(guard *disk.Guard, write func() error) error {
	done := make(chan error, 1)
	go func() { done <- write() }()
	tick := time.NewTicker(fullLook)
	defer tick.Stop()
	var since time.Time
	for {
		select {
		case err := <-done:
			return err
		case now := <-tick.C:
			switch {
			case guard.Level() != disk.Full:
				since = time.Time{}
			case since.IsZero():
				since = now
			case now.Sub(since) > fullPatience:
				return pins.ErrNoSpace
			}
		}
	}
}
