package deals

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// A PieceFile is the bytes of a piece. Closing it tells how far the provider has got.
type PieceFile interface {
	io.ReadSeekCloser
	Size() int64
	ETag() string     // strong, without quotes
	Provider() string // whom it is for
}

// bearer is the token with which the provider of one attempt gets its piece. It is derived, not stored: whoever has the
// key can check it, and it dies with the attempt.
func (s *Service) bearer(id uuid.UUID, p cid.Cid) string {
	return base64.RawURLEncoding.EncodeToString(append(id[:], s.seal(id, p)...))
}

func (s *Service) seal(id uuid.UUID, p cid.Cid) []byte {
	mac := hmac.New(sha256.New, s.cfg.Secret)
	mac.Write([]byte("frostpin piece\x00"))
	mac.Write(id[:])
	mac.Write(p.Hash())
	return mac.Sum(nil)
}

// OpenPiece opens a piece for the provider of a live attempt. Every reason why not is ErrUnauthorized: nobody learns
// which pieces there are. ctx bounds the file, not only its opening.
func (s *Service) OpenPiece(ctx context.Context, pieceCID cid.Cid, bearer string) (PieceFile, error) {
	token, err := base64.RawURLEncoding.DecodeString(bearer)
	if err != nil || len(token) != len(uuid.UUID{})+sha256.Size {
		return nil, ErrUnauthorized
	}
	id := uuid.UUID(token[:len(uuid.UUID{})])
	a, err := s.store.attempt(ctx, byUUID, id.String())
	unknown := errors.Is(err, ErrNotFound)
	if err != nil && !unknown {
		return nil, fmt.Errorf("looking up the deal of a piece: %w", err)
	}
	named := pieceCID.Equals(a.Piece.CIDv1) || pieceCID.Equals(a.Piece.CIDv2)
	// An unknown attempt costs as much as a known one.
	sealed := hmac.Equal(token[len(id):], s.seal(id, a.Piece.CIDv1))
	if unknown || !named || !sealed || s.forbid(a.Root) || !s.mayPull(ctx, a) {
		return nil, ErrUnauthorized
	}
	r, err := s.parts.Layouts.Open(ctx, s.parts.Blocks, a.Root, a.Piece.RawSize)
	if err != nil {
		return nil, fmt.Errorf("opening the piece %s: %w", pieceCID, err)
	}
	return &pull{Reader: r, s: s, ctx: ctx, a: a}, nil
}

// mayPull tells whether an attempt may still need its bytes.
func (s *Service) mayPull(ctx context.Context, a Attempt) bool {
	switch a.State {
	case Proposing, Accepted, Transferring, Published, Sealing:
	case Planned, Active, Rejected, Failed, Missed, Expired, Terminated, Cancelled:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, headTime)
	defer cancel()
	heads, err := s.parts.Chain.Heads(ctx)
	if err != nil {
		heads.Head = s.store.height() // a node that does not answer keeps no provider from its bytes
	}
	return heads.Head <= a.Start
}

// headTime is how long a provider waits for our node.
const headTime = 2 * time.Second

// A pull is a piece on its way to a provider.
type pull struct {
	*piece.Reader
	s   *Service
	ctx context.Context //nolint:containedctx // of the request that reads it

	a     Attempt
	at    int64 // where the next read begins
	begun int64 // where the present run of reads has begun
	told  bool
}

// ETag implements PieceFile.
func (p *pull) ETag() string { return p.a.Piece.CIDv2.String() }

// Provider implements PieceFile.
func (p *pull) Provider() string { return p.a.Provider.String() }

// Read implements io.Reader.
func (p *pull) Read(b []byte) (int, error) {
	if p.s.forbid(p.a.Root) {
		return 0, ErrUnauthorized // since it was opened
	}
	n, err := p.Reader.Read(b)
	p.at += int64(n)
	p.s.meter.served(n)
	if n > 0 && !p.told {
		p.told = true
		p.s.pulled(p.ctx, p.a, Observation{Pulling: true})
	}
	return n, err
}

// Seek implements io.Seeker.
func (p *pull) Seek(offset int64, whence int) (int64, error) {
	at, err := p.Reader.Seek(offset, whence)
	if err == nil && at != p.at {
		p.note()
		p.at, p.begun = at, at
	}
	return at, err
}

// Close implements io.Closer.
func (p *pull) Close() error {
	p.note()
	return p.Reader.Close()
}

// note counts what was read since the last seek.
func (p *pull) note() {
	if p.s.pulls.add(p.a.ID, p.begun, p.at, p.a.Piece.RawSize) {
		p.s.pulled(context.WithoutCancel(p.ctx), p.a, Observation{Pulling: true, Pulled: true})
	}
	p.begun = p.at
}

// pulled records how far a provider has got. It is a hint for users, so that its failure stops nothing.
func (s *Service) pulled(ctx context.Context, a Attempt, o Observation) {
	done := a.State == Transferring || a.State == Published || a.State == Sealing
	if done && (!o.Pulled || !a.PulledAt.IsZero()) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, headTime)
	defer cancel()
	if err := s.store.hint(ctx, a.ID, a.Root, o); err != nil && ctx.Err() == nil {
		s.log.Warn("recording that a provider fetches a piece", "deal", a.UUID.String(), "provider", a.Provider.String(), "err", err)
	}
}

// pulls remembers which parts of a piece were fetched: providers fetch them in parallel, and parts of them again.
type pulls struct {
	mu   sync.Mutex
	seen map[AttemptID][]span
}

// A span is bytes from one offset up to another.
type span struct{ from, to int64 }

const (
	maxPulls = 4096 // attempts remembered at once
	maxSpans = 1024 // parts of each: a provider that leaves more gaps is not worth the memory
)

func newPulls() *pulls { return &pulls{seen: map[AttemptID][]span{}} }

// add notes a part, and tells whether with it, for the first time, all bytes were fetched.
func (p *pulls) add(id AttemptID, from, to, size int64) (all bool) {
	if to <= from {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.seen[id]; !ok && len(p.seen) >= maxPulls {
		clear(p.seen)
	}
	spans := append(p.seen[id], span{from, to})
	slices.SortFunc(spans, func(a, b span) int {
		switch {
		case a.from < b.from:
			return -1
		case a.from > b.from:
			return 1
		}
		return 0
	})
	merged := spans[:1]
	for _, s := range spans[1:] {
		if last := &merged[len(merged)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	if merged[0].from == 0 && merged[0].to >= size {
		delete(p.seen, id)
		return true
	}
	p.seen[id] = merged[:min(len(merged), maxSpans)]
	return false
}
