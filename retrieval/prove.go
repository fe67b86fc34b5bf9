package retrieval

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	proofBlocks = 4               // of one path from the root that are read back
	proofTime   = 2 * time.Minute // for one proof
	proofPiece  = 256 << 10       // bytes of a piece that are read where nothing is indexed
	probePage   = 100             // copies that are listed at once
)

// Prove reads a cold copy of root back from one provider, the one that was longest not read: the root block and a few
// blocks on a random way down. It returns who it was, and records the outcome durably. Who has asked to be left alone is
// left out. Errors: ErrNoSource, ErrUnasked, *FailedError.
func (s *Service) Prove(ctx context.Context, root cid.Cid) (provider string, err error) {
	root = canonical(root)
	list, err := s.parts.Directory.Sources(ctx, root)
	if err != nil {
		return "", fmt.Errorf("looking for copies of %s: %w", root, err)
	}
	if len(list) == 0 {
		return "", ErrNoSource
	}
	proofs, err := s.store.proofs(ctx, root)
	if err != nil {
		return "", fmt.Errorf("reading when copies of %s were read back: %w", root, err)
	}
	var from *Source
	for i, candidate := range list {
		if s.ranks.busy(candidate.Provider) > 0 {
			continue
		}
		if from == nil || proofs[candidate.Provider].last().Before(proofs[from.Provider].last()) {
			from = &list[i]
		}
	}
	if from == nil {
		return "", ErrUnasked
	}
	return from.Provider, s.prove(ctx, root, *from)
}

func (s *Service) prove(ctx context.Context, root cid.Cid, from Source) error {
	inner, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	err := safely(func() error { return s.readBack(inner, root, from) })
	if ctx.Err() != nil {
		return context.Cause(ctx) // nothing is known
	}
	known := (*failure)(nil)
	if errors.As(err, &known) && known.left {
		return ErrUnasked
	}
	reason := ""
	if err != nil {
		s.note(from.Provider, err)
		reason = err.Error()
	}
	s.meter.proofs.WithLabelValues(outcome(err)).Inc()
	if keepErr := s.store.proved(ctx, root, from.Provider, s.now(), reason); keepErr != nil {
		return fmt.Errorf("recording whether a copy was read back: %w", keepErr)
	}
	if err == nil {
		return nil
	}
	f := failure{class: Refused, err: err}
	if known != nil {
		f = *known
	}
	return &FailedError{CID: root, Class: f.class, After: f.after, Cause: err}
}

// readBack reads a few blocks of a copy, one below the other.
func (s *Service) readBack(ctx context.Context, root cid.Cid, from Source) error {
	at := root
	for i := range proofBlocks {
		data, inline := s.parts.Codec.Inline(at)
		if !inline {
			b, err := s.block(ctx, from, at)
			if f := (*failure)(nil); i == 0 && errors.As(err, &f) && f.class == Absent && from.Piece.Defined() && from.Length > 0 {
				return s.readBackPiece(ctx, root, from)
			}
			if err != nil {
				return err
			}
			data = b.RawData()
		}
		links, err := s.parts.Codec.Links(at, data)
		if err != nil || len(links) == 0 {
			return nil //nolint:nilerr // the block is the right one, whatever is in it
		}
		at = canonical(links[rand.IntN(len(links))])
	}
	return nil
}

// errEnough ends a read that has seen what it wanted.
var errEnough = errors.New("enough")

// readBackPiece reads the first blocks of the root's bytes of the piece.
func (s *Service) readBackPiece(ctx context.Context, root cid.Cid, from Source) error {
	begun := s.now()
	body, err := s.openPiece(ctx, from)
	if err != nil {
		return err
	}
	defer body.Close()
	n := 0
	err = follow(streamReader{body}, step{root, 0}, s.cfg.BlockSize, 0, s.parts.Codec, func(_ cid.Cid, data []byte, _ int) error {
		if n += len(data); n >= proofPiece {
			return errEnough
		}
		return nil
	})
	switch {
	case err == nil, errors.Is(err, errEnough):
		s.ranks.served(from.Provider, s.now().Sub(begun))
		return nil
	case errors.Is(err, errStream):
		return broken(ctx, err)
	}
	return err
}

// Proven tells when a copy of root was last read back, of those that can be read since; zero when there is none.
func (s *Service) Proven(ctx context.Context, root cid.Cid) (time.Time, error) {
	proofs, err := s.store.proofs(ctx, canonical(root))
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when copies of %s were read back: %w", root, err)
	}
	var latest time.Time
	for _, p := range proofs {
		if p.failed.Before(p.proven) && p.proven.After(latest) {
			latest = p.proven
		}
	}
	return latest, nil
}

// probes reads all copies back, one after the other, again and again.
func (s *Service) probes(ctx context.Context) {
	var page []CopyRef
	var at CopyRef
	every(ctx, s.cfg.ProbeEvery, func(ctx context.Context) {
		if len(page) == 0 {
			var err error
			if page, err = s.parts.Directory.Copies(ctx, at, probePage); err != nil {
				s.log.Warn("listing cold copies", "err", err)
				return
			}
			if len(page) == 0 {
				at = CopyRef{} // from the start
				return
			}
		}
		at, page = page[0], page[1:]
		if err := s.probe(ctx, at); err != nil && !errors.Is(err, ErrUnasked) && ctx.Err() == nil {
			s.log.Warn("a cold copy could not be read back", "cid", at.Root, "provider", at.Provider, "err", err)
		}
	})
}

func (s *Service) probe(ctx context.Context, c CopyRef) error {
	sources, err := s.parts.Directory.Sources(ctx, canonical(c.Root))
	if err != nil {
		return fmt.Errorf("looking for copies of %s: %w", c.Root, err)
	}
	for _, from := range sources {
		if from.Provider == c.Provider {
			return s.prove(ctx, canonical(c.Root), from)
		}
	}
	return nil // it has ended since
}
