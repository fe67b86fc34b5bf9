package deals

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// A Holder is a provider with an active deal for a DAG, under whatever terms it was made.
type Holder struct {
	Provider ProviderID
	Trust    Trust     // Denied: the operator wants it used no more, although it has a copy
	HTTP     string    // base URL that the operator decided on; empty: none
	Found    []string  // base URLs that the provider announces, the best first
	FoundAt  time.Time // when it did; zero: never
	Contact  Contact
	Piece    piece.Piece // that holds the DAG's CAR: of its CARSize bytes, at Offset
	Offset   int64
}

// URLs are where a holder serves, the best first: the operator's word before the provider's.
func (h Holder) URLs() []string {
	if h.HTTP == "" {
		return h.Found
	}
	others := slices.DeleteFunc(slices.Clone(h.Found), func(u string) bool { return u == h.HTTP })
	return append([]string{h.HTTP}, others...)
}

// Holders returns every provider with an active deal for a root, by number; none where there is none. Of one about which
// nothing is known, or nothing lately, it has the provider asked, and does not wait for that: Locate does.
func (s *Service) Holders(ctx context.Context, root cid.Cid) ([]Holder, error) {
	all, err := s.store.holders(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("looking up who holds %s: %w", root, err)
	}
	for _, h := range all {
		if h.HTTP == "" && s.now().Sub(h.FoundAt) >= locateEvery {
			s.locator.refresh(h.Provider) //nolint:contextcheck // it goes on for whoever asks next
		}
	}
	return all, nil
}

// A CopyRef names a copy: a root and a provider that has an active deal for it.
type CopyRef struct {
	Root     cid.Cid
	Provider ProviderID
}

// mostCopies bounds a page of copies.
const mostCopies = 1000

// Copies returns at most n copies in a fixed order, those after one; the zero CopyRef is before all. The page after the
// last is empty.
func (s *Service) Copies(ctx context.Context, after CopyRef, n int) ([]CopyRef, error) {
	all, err := s.store.copies(ctx, after, min(max(n, 1), mostCopies))
	if err != nil {
		return nil, fmt.Errorf("listing copies: %w", err)
	}
	return all, nil
}

// A Copy is one cold copy: a root and who holds it.
type Copy struct {
	Holder
	Root cid.Cid
}

// Copy returns one active copy with a provider, whichever, if it has any.
func (r *Registry) Copy(ctx context.Context, id ProviderID) (c Copy, found bool, err error) {
	root, found, err := r.store.someCopy(ctx, id)
	if err != nil || !found {
		return Copy{}, false, err
	}
	all, err := r.store.holders(ctx, root)
	for _, h := range all {
		if h.Provider == id {
			return Copy{Holder: h, Root: root}, true, err
		}
	}
	return Copy{}, false, err
}
