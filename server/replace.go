package server

import (
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/labstack/echo/v4"

	"github.com/frostpin/frostpin/auth/ledger"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/spec"
)

// admitReplacement tells whether the caller may have one pin in place of another. Only what the new one brings beyond the
// old one is asked of plan and balance: Kubo and Helia replace a pin to rename it.
func (s *Server) admitReplacement(c echo.Context, old *pins.Pin, r spec.Request, decided pins.Decision) error {
	if bringsNothing(old, r, decided) {
		return nil
	}
	quota := quotaOf(caller(c).Limits)
	if status := old.Status(); status == spec.Queued || status == spec.Pinning {
		quota.InFlight = 0 // one goes, one comes
	}
	return s.fits(c, quota, 0, []pins.Sized{{Root: r.Root}}, old.ID, func() error { return s.affordInstead(c, old, r, decided) })
}

// affordInstead tells whether the caller can pay for what one pin brings beyond the one it replaces.
func (s *Server) affordInstead(c echo.Context, old *pins.Pin, r spec.Request, decided pins.Decision) error {
	if !s.pays(c) {
		return nil
	}
	size, err := s.pins.Size(c.Request().Context(), r.Root)
	if err != nil {
		return fmt.Errorf("looking up the size of a dag: %w", err)
	}
	if size == 0 {
		size = unknownSize // while it is fetched, too, it is weighed without what it replaces
	}
	frees := occupied(old)
	kept, err := s.pins.ReplacedBy(c.Request().Context(), account(c), old.ID)
	if err != nil {
		return err
	}
	frees.Hot += kept
	more := ledger.Stock{Hot: max(0, size-frees.Hot), Cold: max(0, size*int64(decided.Copies)-frees.Cold)}
	if more == (ledger.Stock{}) {
		return nil
	}
	return s.carries(c, more, []cid.Cid{r.Root}, nil, old.ID)
}

// bringsNothing tells whether a replacement stores and fetches what the old pin does already. One that failed or was let go
// does neither.
func bringsNothing(old *pins.Pin, r spec.Request, decided pins.Decision) bool {
	return old.Root.Equals(r.Root) && old.Lapsed.IsZero() && old.Status() != spec.Failed &&
		old.Residence == decided.Residence && (old.Terms == decided.Terms || decided.Terms == pins.Uncopied)
}

// occupied is what a pin is charged for, which ends with it. While its DAG comes back, that is more than is counted here.
func occupied(p *pins.Pin) ledger.Stock {
	if !p.Lapsed.IsZero() {
		return ledger.Stock{}
	}
	stock := ledger.Stock{Cold: p.DAG.Bytes * int64(p.Cold.Active)}
	if p.DAG.Hot == pins.HotHeld {
		stock.Hot = p.DAG.Bytes
	}
	return stock
}
