package hold

import (
	"context"
	"errors"
	"fmt"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
)

// Imports are the open imports of a tier: what they have stored is not collected. The zero value is ready.
type Imports struct {
	mu   sync.Mutex
	open map[*Kept]struct{}
}

// Kept is what one import has stored.
type Kept struct {
	all    *Imports
	hashes map[string]struct{}
}

// Open begins an import.
func (i *Imports) Open() *Kept {
	k := &Kept{all: i, hashes: make(map[string]struct{})}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open == nil {
		i.open = make(map[*Kept]struct{})
	}
	i.open[k] = struct{}{}
	return k
}

// Keep notes blocks that are about to be stored.
func (k *Kept) Keep(list []blocks.Block) {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	for _, b := range list {
		k.hashes[string(b.Cid().Hash())] = struct{}{}
	}
}

// Has tells whether Keep has noted a block.
func (k *Kept) Has(c cid.Cid) bool {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	_, has := k.hashes[string(c.Hash())]
	return has
}

// Close ends the import: what it has stored stays only if something else wants it.
func (k *Kept) Close() {
	k.all.mu.Lock()
	defer k.all.mu.Unlock()
	delete(k.all.open, k)
}

// Any tells whether an import is open.
func (i *Imports) Any() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.open) > 0
}

// Each yields the hash of every block that open imports have stored.
func (i *Imports) Each(yield func(hash string)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := range i.open {
		for hash := range k.hashes {
			yield(hash)
		}
	}
}

// Check says whether blocks may be stored: each is of a kind that is held, and is what its CID names. The error is a
// *pins.Refused.
func Check(list []blocks.Block) error {
	for _, b := range list {
		if err := Admit(b.Cid()); err != nil {
			return err
		}
		if _, inline := Identity(b.Cid()); inline {
			return refuse("%s carries its block itself", b.Cid())
		}
		if sum, err := b.Cid().Prefix().Sum(b.RawData()); err != nil || !sum.Equals(b.Cid()) {
			return refuse("the bytes of block %s are not those that its CID names", b.Cid())
		}
	}
	return nil
}

// Verify reads every block below root through read, which verifies what it returns, and calls bad for each that is
// missing or wrong; what is below such a block is not looked at. pace is called with the size of each block. Errors of
// pace and bad end it, and so does one of read that says nothing about the block.
func Verify(ctx context.Context, root cid.Cid, read func(context.Context, cid.Cid) ([]byte, error),
	pace func(ctx context.Context, bytes int) error, bad func(c cid.Cid, err error) error,
) error {
	decoder := NewDecoder()
	todo := NewTodo(root)
	for c, more := todo.Next(); more; c, more = todo.Next() {
		data, inline := Identity(c)
		if !inline {
			var err error
			data, err = read(ctx, c)
			switch {
			case errors.Is(err, pins.ErrAbsent), errors.Is(err, pins.ErrCorrupt):
				if err := bad(c, err); err != nil {
					return err
				}
				continue
			case err != nil:
				return fmt.Errorf("verifying %s: %w", root, err)
			}
			if err := pace(ctx, len(data)); err != nil {
				return err
			}
		}
		links, err := decoder.Links(c, data)
		if err != nil {
			return fmt.Errorf("verifying %s: %w", root, err)
		}
		todo.Add(links)
	}
	return nil
}
