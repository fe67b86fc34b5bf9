package hot_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/pinstest"
)

// What a store without checksums gives is hashed whenever it is read.
func TestFileThatChangesBetweenTwoReadsIsCorrupt(t *testing.T) {
	dir := t.TempDir()
	tier := openEmbedded(t, hot.Config{Dir: dir, Profile: hot.Flatfs})
	d := noisyTree("changes")
	leaf := d.Blocks[2]
	store(t, tier, d.Blocks...)
	if data, err := tier.Block(t.Context(), leaf.Cid()); err != nil || !bytes.Equal(data, leaf.RawData()) {
		t.Fatalf("reading the block: %d bytes, %v", len(data), err)
	}
	changed := false
	err := filepath.WalkDir(filepath.Join(dir, "blocks"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".data" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, leaf.RawData()) {
			return err
		}
		changed = true
		data[0] ^= 1
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil || !changed {
		t.Fatalf("changing the file of the block: %v, %v", changed, err)
	}
	if data, err := tier.Block(t.Context(), leaf.Cid()); !errors.Is(err, pins.ErrCorrupt) || data != nil {
		t.Errorf("the changed block is %d bytes, %v; want pins.ErrCorrupt", len(data), err)
	}
}

// A verification trusts no earlier read, and none that comes later trusts what it found wrong.
func TestVerificationHashesWhatWasReadBefore(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	d := noisyTree("again")
	leaf := d.Blocks[2]
	store(t, tier, d.Blocks...)
	if _, err := tier.Block(t.Context(), leaf.Cid()); err != nil {
		t.Fatal(err)
	}
	corrupt(t, tier, leaf)
	if got := wrong(t, tier, d.Root); !slices.Equal(got, []cid.Cid{leaf.Cid()}) {
		t.Errorf("wrong are %s, want %s", got, leaf.Cid())
	}
	if data, err := tier.Block(t.Context(), leaf.Cid()); !errors.Is(err, pins.ErrCorrupt) || data != nil {
		t.Errorf("after it the block is %d bytes, %v; want pins.ErrCorrupt", len(data), err)
	}
	store(t, tier, leaf)
	if data, err := tier.Block(t.Context(), leaf.Cid()); err != nil || !bytes.Equal(data, leaf.RawData()) {
		t.Errorf("stored anew the block is %d bytes, %v", len(data), err)
	}
}

// What was hashed on its way in need not be hashed by its first reader; and where the store keeps no checksums everything
// is, always.
func TestWhatCameThroughTheServerIsNotHashedAgain(t *testing.T) {
	for profile, trusts := range map[string]bool{hot.Pebble: true, hot.Flatfs: false} {
		t.Run(profile, func(t *testing.T) {
			tier := openEmbedded(t, hot.Config{AllowPrivateOrigins: true, Profile: profile})
			given := pinstest.Raw("given with the request")
			store(t, tier, given)
			if got := tier.Trusts(given.Cid()); got != trusts {
				t.Errorf("stored, it is trusted: %t, want %t", got, trusts)
			}
			from, fetched := newPeer(t), pinstest.Raw("fetched from a peer")
			from.provide(fetched)
			defer tier.Connect(t.Context(), []peer.AddrInfo{from.info()})()
			if err := tier.Hold(t.Context(), fetched.Cid(), impatient, nil); err != nil {
				t.Fatal(err)
			}
			if got := tier.Trusts(fetched.Cid()); got != trusts {
				t.Errorf("fetched, it is trusted: %t, want %t", got, trusts)
			}
			leaf := pinstest.Raw("stored behind the server's back")
			for _, other := range []blocks.Block{leaf, pinstest.Node("and what is above it", leaf.Cid())} {
				if err := tier.Node().Blockstore.Put(t.Context(), other); err != nil {
					t.Fatal(err)
				}
				if err := tier.Hold(t.Context(), other.Cid(), pins.Limits{}, nil); err != nil {
					t.Fatal(err)
				}
				if tier.Trusts(other.Cid()) {
					t.Errorf("%s is trusted, which nobody has hashed", other.Cid())
				}
			}
		})
	}
}
