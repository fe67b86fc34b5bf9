package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	blocks "github.com/ipfs/go-block-format"

	"github.com/frostpin/frostpin/cmd/disk"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// A collection that is held up asks for blocks although the disk is full: it is what makes room.
func TestOnTheLastRoomOnlyWhatMakesRoomIsStored(t *testing.T) {
	guard := disk.New(disk.Config{Dirs: []string{t.TempDir()}, Statfs: func(string) (disk.Space, error) {
		return disk.Space{Free: 1, Total: 1 << 40}, nil
	}}, slog.New(slog.DiscardHandler))
	tier := pinstest.NewTier()
	inner, err := tier.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := roomyImport{inner, guard}
	b := pinstest.Raw("a node of somebody's")
	put := func(ctx context.Context) error { return in.Put(ctx, []blocks.Block{b}) }
	if err := put(t.Context()); !errors.Is(err, pins.ErrNoSpace) || tier.Has(b.Cid()) {
		t.Errorf("an upload: %v", err)
	}
	if err := put(pins.MakingRoom(t.Context())); err != nil || !tier.Has(b.Cid()) {
		t.Errorf("what makes room: %v", err)
	}
}
