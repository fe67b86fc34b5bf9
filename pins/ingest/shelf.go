package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot/hold"
)

// Blocks go to the tier in batches.
const (
	batchBlocks = 256
	batchBytes  = 4 << 20
)

// A shelf puts the blocks of one upload into an import. It is a blockstore for those who build UnixFS, which they
// do with several goroutines.
type shelf struct {
	tier Tier
	in   pins.Import
	lim  pins.Limits

	mu          sync.Mutex
	count, size int64                   // of all blocks so far
	waiting     map[string]blocks.Block // by multihash: those of the next batch
	order       []blocks.Block
	bytes       int
	sent        bool // some block to the tier
}

func newShelf(tier Tier, in pins.Import, lim pins.Limits) *shelf {
	return &shelf{tier: tier, in: in, lim: lim, waiting: make(map[string]blocks.Block)}
}

// Put implements blockstore.Blockstore.
func (s *shelf) Put(ctx context.Context, b blocks.Block) error {
	if _, inline := hold.Identity(b.Cid()); inline {
		return hold.Admit(b.Cid())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(b.RawData())
	if s.lim.BlockSize > 0 && n > s.lim.BlockSize {
		return &LargeError{fmt.Sprintf("block %s is larger than the limit of %d bytes", b.Cid(), s.lim.BlockSize)}
	}
	if s.count++; s.lim.Blocks > 0 && s.count > s.lim.Blocks {
		return &LargeError{fmt.Sprintf("the upload has more blocks than the limit of %d", s.lim.Blocks)}
	}
	if s.size += int64(n); s.lim.Bytes > 0 && s.size > s.lim.Bytes {
		return tooMany(s.lim.Bytes)
	}
	if _, again := s.waiting[string(b.Cid().Hash())]; again {
		// Under another CID the bytes may not be those that it names, which only the tier would notice.
		if sum, err := b.Cid().Prefix().Sum(b.RawData()); err == nil && sum.Equals(b.Cid()) {
			return nil
		}
	}
	// What builds UnixFS goes on changing the nodes that it has given away.
	b, err := blocks.NewBlockWithCid(b.RawData(), b.Cid())
	if err != nil {
		return fmt.Errorf("taking a block: %w", err)
	}
	s.waiting[string(b.Cid().Hash())] = b
	s.order = append(s.order, b)
	s.bytes += n
	if len(s.order) >= batchBlocks || s.bytes >= batchBytes {
		return s.send(ctx)
	}
	return nil
}

// flush stores what waits.
func (s *shelf) flush(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(ctx)
}

// send is flush with s.mu held.
func (s *shelf) send(ctx context.Context) error {
	if len(s.order) == 0 {
		return nil
	}
	s.sent = true // also where it fails: some may be stored
	if err := s.in.Put(ctx, s.order); err != nil {
		return err
	}
	clear(s.waiting)
	s.order, s.bytes = nil, 0
	return nil
}

// stored tells whether the tier may have a block of the upload.
func (s *shelf) stored() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// PutMany implements blockstore.Blockstore.
func (s *shelf) PutMany(ctx context.Context, list []blocks.Block) error {
	for _, b := range list {
		if err := s.Put(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// Get implements blockstore.Blockstore.
func (s *shelf) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	s.mu.Lock()
	b, ok := s.waiting[string(c.Hash())]
	s.mu.Unlock()
	if ok {
		return blocks.NewBlockWithCid(b.RawData(), c)
	}
	data, err := s.tier.Block(ctx, c)
	switch {
	case errors.Is(err, pins.ErrAbsent) && s.in.Stored(c):
		return nil, gone(c)
	case errors.Is(err, pins.ErrAbsent):
		return nil, ipld.ErrNotFound{Cid: c}
	case err != nil:
		return nil, err
	}
	return blocks.NewBlockWithCid(data, c)
}

// Has implements blockstore.Blockstore.
func (s *shelf) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := s.Get(ctx, c)
	if ipld.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// GetSize implements blockstore.Blockstore.
func (s *shelf) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	b, err := s.Get(ctx, c)
	if err != nil {
		return 0, err
	}
	return len(b.RawData()), nil
}

// DeleteBlock implements blockstore.Blockstore. What is not wanted any more, the collector finds.
func (s *shelf) DeleteBlock(context.Context, cid.Cid) error { return nil }

// AllKeysChan implements blockstore.Blockstore.
func (s *shelf) AllKeysChan(context.Context) (<-chan cid.Cid, error) {
	return nil, errors.ErrUnsupported
}

func tooMany(lim int64) error {
	return &LargeError{fmt.Sprintf("the upload is larger than the limit of %d bytes", lim)}
}

// A bounded reader fails with a LargeError after lim bytes; zero means no bound.
type bounded struct {
	r         io.Reader
	left, lim int64
	err       error // the one it has ended with, other than io.EOF: parsers hide it
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.lim > 0 && b.left < 0 {
		n, err = 0, tooMany(b.lim)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// or is what reading has ended with, and where that is nothing, that the body is malformed.
func (b *bounded) or(problem string) error {
	if b.err != nil {
		return b.err
	}
	return invalid(problem)
}
