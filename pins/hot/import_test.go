package hot_test

import (
	"context"
	"errors"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins/hot"
)

// What is stored while a collection has the lock waits no longer than its caller, and leaves no lock taken.
func TestStoringEndsWithItsContextDuringACollection(t *testing.T) {
	tier := openEmbedded(t, hot.Config{})
	in, err := tier.Import(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	data := []byte("a block")
	hash, err := multihash.Sum(data, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	b, err := blocks.NewBlockWithCid(data, cid.NewCidV1(cid.Raw, hash))
	if err != nil {
		t.Fatal(err)
	}
	collection := tier.Node().Blockstore.GCLock(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- in.Put(ctx, []blocks.Block{b}) }()
	select {
	case err := <-ended:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the collection")
	}
	collection.Unlock(t.Context())
	free := make(chan struct{})
	go func() {
		tier.Node().Blockstore.GCLock(t.Context()).Unlock(t.Context())
		close(free)
	}()
	select {
	case <-free:
	case <-time.After(10 * time.Second):
		t.Fatal("the lock is still taken")
	}
	if err := in.Put(t.Context(), []blocks.Block{b}); err != nil {
		t.Errorf("storing it afterwards: %v", err)
	}
}
