package pins

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals"
	"github.com/frostpin/frostpin/spec"
)

// A Journal keeps what has become of DAGs, for the accounts whose pins name them.
type Journal interface {
	// Record joins the transaction of ctx. It is about the pins of a root with these terms, or about all of them when
	// terms is 0.
	Record(ctx context.Context, root cid.Cid, terms deals.TermsID, kind string, data map[string]any) error

	// RecordFor is the same for one account alone: it is about all its pins of a root.
	RecordFor(ctx context.Context, account Account, root cid.Cid, kind string, data map[string]any) error
}

// Kinds of what is recorded. Where it takes more than the whole DAG for a pin to be `pinned`, a DAG that came is
// KindHeld, and KindPinned follows with the copies.
const (
	KindQueued    = "pin.queued"
	KindPinning   = "pin.pinning"
	KindHeld      = "pin.held"
	KindPinned    = "pin.pinned"
	KindFailed    = "pin.failed"
	KindLost      = "pin.lost"      // blocks are gone from the hot tier; they are looked for again
	KindOffloaded = "pin.offloaded" // let go here, whole in deals
	KindRestoring = "pin.restoring"
	KindRestored  = "pin.restored"

	KindDealsChanged  = "deals.changed"
	KindDealsStored   = "deals.stored"   // as many copies are proven as are wanted
	KindDealsDegraded = "deals.degraded" // there were as many once, and are fewer now
)

// hotKind is what a transition of a root is called; empty for one that nobody is told.
func (s *store) hotKind(before, after Hot) string {
	switch {
	case before == after || after == HotReleasing || before == HotReleasing && after == HotGaveUp: // told to whom it concerns
		return ""
	case before == HotHeld && after.waits():
		return KindLost
	case after == HotHeld && before.readsCold():
		return KindRestored
	case after == HotHeld && !s.rule.hotOnly():
		return KindHeld
	}
	return map[Hot]string{
		HotQueued: KindQueued, HotFetching: KindPinning, HotHeld: KindPinned,
		HotOffloaded: KindOffloaded, HotRestoring: KindRestoring, HotGaveUp: KindFailed,
	}[after]
}

// tellHot records a transition of a root.
func (s *store) tellHot(ctx context.Context, before, after Root) error {
	if s.journal == nil {
		return nil
	}
	kind := s.hotKind(before.Hot, after.Hot)
	if kind == "" {
		return nil
	}
	data := map[string]any{"hot_status": after.Hot}
	if after.Reason != "" {
		data["reason"] = after.Reason
	}
	if after.refusals != nil {
		return s.tellRefusals(ctx, after, kind, data)
	}
	if after.Hot == HotHeld {
		data["dag_size"], data["dag_blocks"] = after.Bytes, after.Blocks
	}
	return s.journal.Record(ctx, after.CID, 0, kind, data)
}

// tellRefusals tells each account why it cannot have a DAG, or where there are many only that it cannot.
func (s *store) tellRefusals(ctx context.Context, r Root, kind string, data map[string]any) error {
	if len(*r.refusals) > tellEach {
		data["reason"] = "this account cannot have it; the pin says why"
		return s.journal.Record(ctx, r.CID, 0, kind, data)
	}
	for _, account := range slices.Sorted(maps.Keys(*r.refusals)) {
		data := maps.Clone(data)
		data["reason"] = (*r.refusals)[account]
		if err := s.journal.RecordFor(ctx, account, r.CID, kind, data); err != nil {
			return err
		}
	}
	return nil
}

// tellEach is how many accounts are told by an event each.
const tellEach = 100

// tellCold records how a wish stands.
func (s *store) tellCold(ctx context.Context, w deals.Wish, cold deals.Standing) error {
	if s.journal == nil {
		return nil
	}
	kind := KindDealsChanged
	switch {
	case cold.Cold == deals.ColdStored:
		kind = KindDealsStored
	case cold.Kept && cold.Active < cold.Wanted:
		kind = KindDealsDegraded
	}
	data := map[string]any{
		"cold_status": cold.Cold, "replication_factor": cold.Wanted,
		"replicas_active": cold.Active, "replicas_in_progress": cold.Working,
	}
	if cold.Reason != "" {
		data["reason"] = cold.Reason
	}
	return s.journal.Record(ctx, w.Root, w.Terms, kind, data)
}

// tellStatus records that cold copies have changed the status of the pins of a wish.
func (s *store) tellStatus(ctx context.Context, w deals.Wish, status spec.Status) error {
	if s.journal == nil {
		return nil
	}
	return s.journal.Record(ctx, w.Root, w.Terms, "pin."+string(status), nil)
}

// Names returns which of some roots pins of an account name. Roots are canonical CIDs.
func (s *Service) Names(ctx context.Context, account Account, roots []string) (map[string]bool, error) {
	return s.store.names(ctx, account, roots)
}

// Naming says which pins of an account are meant.
type Naming struct {
	Root  string        // canonical
	Terms deals.TermsID // 0: any
	By    time.Time     // made by then
	After ID            // in the order of ids
	Limit int
}

// Naming returns pins by their id, with their ID, CID and Name only.
func (s *Service) Naming(ctx context.Context, account Account, n Naming) ([]Pin, error) {
	return s.store.naming(ctx, account, n)
}
