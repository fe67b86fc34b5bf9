package main

import (
	"context"
	"path/filepath"

	blocks "github.com/ipfs/go-block-format"

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
	if i.guard.Level() == disk.Full {
		return pins.ErrNoSpace
	}
	return i.Import.Put(ctx, list)
}
