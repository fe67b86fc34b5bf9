package pins

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/spec"
)

// ReasonBlocked is the first word of why a pin of blocked content has failed.
const ReasonBlocked = "CONTENT_BLOCKED"

// blockedReason is what users are told. What was reported to the operator is not among it.
const blockedReason = ReasonBlocked + ": the operator of this service has blocked this content"

// What Blocks answer.
var (
	ErrBlocked    = errors.New("the operator has blocked this content")
	ErrNotBlocked = errors.New("not blocked")
)

// A Block says that some content is neither kept nor served, whatever version and codec the CID has that names it.
type Block struct {
	ID     int64   // in the order in which they were made
	CID    cid.Cid // as it was given
	Reason string  // for operators; users do not see it
	By     string  // who did it
	At     time.Time
}

// Blocks are what the operator has blocked, in one database. The servers of the database follow within seconds. All
// methods may be called concurrently, and join the transaction of ctx.
type Blocks struct {
	db  DB
	now func() time.Time
}

// NewBlocks returns the blocks of a database that has Migrations applied.
func NewBlocks(db DB, now func() time.Time) *Blocks { return &Blocks{db: db, now: now} }

// Bounds of a block. No longer hash can be pinned or read.
const (
	maxBlockReason = 1000 // characters
	maxBlockHash   = 192  // bytes of a multihash; an identity hash may have more, and fits into no index then
)

// Add blocks content and returns the block. What is blocked already stays as it is: added is false then. What cannot be
// a block is a *spec.InvalidError.
func (b *Blocks) Add(ctx context.Context, c cid.Cid, reason, by string) (block Block, added bool, err error) {
	switch n := utf8.RuneCountInString(reason); {
	case len(c.Hash()) > maxBlockHash:
		return Block{}, false, &spec.InvalidError{Field: "cid", Problem: "has a hash that is too long: no such content can be pinned or read here"}
	case n < 1 || n > maxBlockReason:
		return Block{}, false, &spec.InvalidError{Field: "reason", Problem: fmt.Sprintf("must have 1 to %d characters", maxBlockReason)}
	case !utf8.ValidString(reason) || strings.ContainsRune(reason, 0):
		return Block{}, false, &spec.InvalidError{Field: "reason", Problem: "must be text in UTF-8 without NUL characters"}
	}
	block, added, err = b.add(ctx, Block{CID: c, Reason: reason, By: by, At: fromMS(b.now().UnixMilli())})
	if err != nil {
		return Block{}, false, fmt.Errorf("blocking %s: %w", c, err)
	}
	return block, added, nil
}

// Remove takes a block back. Pins that have failed stay so until they are asked for again. ErrNotBlocked: there is none.
func (b *Blocks) Remove(ctx context.Context, c cid.Cid) error {
	if err := b.remove(ctx, c.Hash()); err != nil {
		return fmt.Errorf("taking back the block of %s: %w", c, err)
	}
	return nil
}

// List returns blocks in the order of their IDs, those after one.
func (b *Blocks) List(ctx context.Context, after int64, limit int) ([]Block, error) {
	list, err := b.list(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("listing blocks: %w", err)
	}
	return list, nil
}

// Blocked tells whether content is blocked, as of a few seconds ago. It asks nobody.
func (s *Service) Blocked(c cid.Cid) bool {
	_, blocked := s.blocked.Load().hashes[string(c.Hash())]
	return blocked
}

// Refuse returns an ErrBlocked for content that is blocked.
func (s *Service) Refuse(c cid.Cid) error {
	if s.Blocked(c) {
		return fmt.Errorf("%w: %s", ErrBlocked, c)
	}
	return nil
}

// A blockSet is what is blocked, under one version of the table.
type blockSet struct {
	version string
	hashes  map[string]struct{} // multihashes
}

// Codecs are those of what can be held here.
func Codecs() []multicodec.Code {
	return []multicodec.Code{
		multicodec.Raw, multicodec.DagPb, multicodec.DagCbor, multicodec.DagJson, multicodec.Cbor, multicodec.Json,
	}
}

// rootsWith are the canonical CIDs of the roots that multihashes may name.
func rootsWith(hashes []string) []string {
	roots := make([]string, 0, len(hashes)*len(Codecs()))
	for _, h := range hashes {
		for _, codec := range Codecs() {
			roots = append(roots, cid.NewCidV1(uint64(codec), multihash.Multihash(h)).String())
		}
	}
	return roots
}
