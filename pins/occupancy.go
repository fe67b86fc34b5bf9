package pins

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// A Resident is a DAG with what its place on the hot tier depends on.
type Resident struct {
	Root     cid.Cid
	Hot      Hot
	Bytes    int64
	Reads    float64   // that are not forgotten; see package heat
	LastRead time.Time // zero: never
	LetGo    time.Time // last; zero: never
	Priority float64   // those with the lowest go first
	Ground   Ground    // why it stays, as far as the database knows; GroundNone: it may go
	ColdOnly bool      // all its pins want it cold only
	Proven   time.Time // when a cold copy was last read back; zero: never
}

// An Occupancy tells how the hot tier is used.
type Occupancy struct {
	Quota int64          // 0: no bound
	Sums  map[Hot]Sum    // of all DAGs
	Held  map[Ground]Sum // of those that are held; GroundNone: what may go
	Next  []Resident     // what would be let go next, first what goes first
}

// Occupancy reads all that is held, and tells which n DAGs would be let go next if room were needed.
func (s *Service) Occupancy(ctx context.Context, n int) (o Occupancy, err error) {
	o = Occupancy{Quota: s.cfg.HotQuota, Held: map[Ground]Sum{}}
	if o.Sums, err = s.store.occupied(ctx); err != nil {
		return o, fmt.Errorf("summing up the hot tier: %w", err)
	}
	next := candidates{most: n}
	err = s.sched.eachResident(ctx, func(r resident) {
		ground := s.sched.groundOf(r)
		sum := o.Held[ground]
		o.Held[ground] = Sum{sum.DAGs + 1, sum.Bytes + r.Bytes}
		if ground == GroundNone {
			next.offer(candidate{r, s.sched.priority(r)})
		}
	})
	if err != nil {
		return o, fmt.Errorf("reading what is hot: %w", err)
	}
	for _, c := range next.sorted() {
		r, err := s.resident(ctx, c.resident)
		if err != nil {
			return o, err
		}
		o.Next = append(o.Next, r)
	}
	return o, nil
}

// Resident tells of one DAG. ErrNotFound: no pin names it.
func (s *Service) Resident(ctx context.Context, root cid.Cid) (Resident, error) {
	list, err := s.store.residents(ctx, `r.cid = ?`, spec.Canonical(root).String())
	if err != nil {
		return Resident{}, fmt.Errorf("reading %s: %w", root, err)
	}
	if len(list) == 0 {
		return Resident{}, ErrNotFound
	}
	return s.resident(ctx, list[0])
}

func (s *Service) resident(ctx context.Context, r resident) (Resident, error) {
	out := Resident{
		Root: r.CID, Hot: r.Hot, Bytes: r.Bytes, Reads: r.Record.Reads(s.now()), LastRead: r.Read, LetGo: r.LetGo,
		Priority: s.sched.priority(r), Ground: s.sched.groundOf(r), ColdOnly: r.coldOnly,
	}
	if s.cfg.ColdSource == nil {
		return out, nil
	}
	var err error
	out.Proven, err = s.cfg.ColdSource.Proven(ctx, r.CID)
	return out, err
}
