package pins

import (
	"context"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// AccountUsage is what an account has here.
type AccountUsage struct {
	Pins  map[spec.Status]int64 // all four statuses
	Bytes int64                 // of the DAGs that are held for it, also of pins that were replaced, each counted once; up to a minute old
}

// A Quota bounds what an account may have. Zero means no bound.
type Quota struct {
	Pins      int64
	InFlight  int64 // pins that are queued or pinning
	Bytes     int64 // that are held
	DAGBytes  int64 // of the DAG of one pin
	DAGBlocks int64
}

// A QuotaError tells which bound another pin would break, in words for the user.
type QuotaError struct{ Problem string }

func (e *QuotaError) Error() string { return e.Problem }

// Usage returns what an account has now.
func (s *Service) Usage(ctx context.Context, account Account) (AccountUsage, error) {
	counts, err := s.store.accountCounts(ctx, account)
	if err != nil {
		return AccountUsage{}, err
	}
	bytes, err := s.heldBytes.of(ctx, account)
	return AccountUsage{Pins: counts, Bytes: bytes}, err
}

// Admit tells whether an account may have so many pins more: nil, or a *QuotaError. Fits tells of their DAGs.
//
// Both look before the pins are inserted, and not in their transaction, which serves many accounts at once. So requests
// that run at the same moment may together exceed a quota of pins by as many as there are of them, and a quota of bytes by
// what they bring, by what is still being fetched, and by what became held since it was added up, a minute ago at most.
func (s *Service) Admit(ctx context.Context, account Account, q Quota, pins int64) error {
	if q.Pins == 0 && q.InFlight == 0 {
		return nil
	}
	counts, err := s.store.accountCounts(ctx, account)
	if err != nil {
		return err
	}
	return q.admitPins(counts, pins)
}

func (q Quota) admitPins(counts map[spec.Status]int64, more int64) error {
	var all int64
	for _, n := range counts {
		all += n
	}
	inFlight := counts[spec.Queued] + counts[spec.Pinning]
	switch {
	case q.Pins > 0 && more > 0 && all+more > q.Pins:
		return &QuotaError{fmt.Sprintf("this account has %d pins, and its plan allows %d", all, q.Pins)}
	case q.InFlight > 0 && inFlight >= q.InFlight:
		return &QuotaError{fmt.Sprintf("%d pins of this account wait for their data, and its plan allows %d", inFlight, q.InFlight)}
	}
	return nil
}

// A Sized is a DAG that is asked for, and how large it is as far as the asker knows.
type Sized struct {
	Root cid.Cid
	Extent
}

// Roots are those of DAGs.
func Roots(dags []Sized) []cid.Cid {
	roots := make([]cid.Cid, len(dags))
	for i, dag := range dags {
		roots[i] = dag.Root
	}
	return roots
}

// Fits tells of each of the DAGs that an account asks for together whether it may have it, in addition to those before
// it: nil, or a *QuotaError. What is held for the account already brings nothing, and neither does what the pin that is
// replaced alone has here stay. Bytes that have yet to be fetched are not known, and count once they are here. Needed is how many
// bytes that are kept of pins that were replaced have to give way to those that are not refused.
func (s *Service) Fits(ctx context.Context, account Account, q Quota, dags []Sized, replaced ID) (refused []error, needed int64, err error) {
	refused = make([]error, len(dags))
	if len(dags) == 0 || q.Bytes == 0 && q.DAGBytes == 0 && q.DAGBlocks == 0 {
		return refused, 0, nil
	}
	there, freed, err := s.store.extents(ctx, account, dags, replaced)
	if err != nil {
		return nil, 0, fmt.Errorf("looking up the sizes of dags: %w", err)
	}
	held := int64(0)
	if q.Bytes > 0 {
		if held, err = s.heldBytes.of(ctx, account); err != nil {
			return nil, 0, err
		}
	}
	held = max(0, held-freed)
	yields := int64(-1) // what can give way; -1: not looked up
	for i, dag := range dags {
		key := spec.Canonical(dag.Root).String()
		known := there[key]
		known.Blocks, known.Bytes = max(known.Blocks, dag.Blocks), max(known.Bytes, dag.Bytes)
		if refused[i] = q.FitsOne(known.Extent); refused[i] != nil || q.Bytes == 0 || known.counted {
			continue
		}
		if over := held + max(known.Bytes, 1) - q.Bytes; over > 0 {
			if yields < 0 {
				if yields, err = s.store.canYield(ctx, account, replaced, canonicals(Roots(dags))); err != nil {
					return nil, 0, err
				}
			}
			if over > yields {
				refused[i] = &QuotaError{q.full(held, known.Bytes)}
				continue
			}
			needed = over // it only grows
		}
		held += known.Bytes
		known.counted = true
		there[key] = known
	}
	return refused, needed, nil
}

func (q Quota) full(held, more int64) string {
	if more == 0 {
		return fmt.Sprintf("%d bytes are held for this account, and its plan allows %d", held, q.Bytes)
	}
	return fmt.Sprintf("%d bytes are held for this account, this has %d or more, and its plan allows %d", held, more, q.Bytes)
}

// FitsOne tells whether the DAG of one pin may be so large: nil, or a *QuotaError.
func (q Quota) FitsOne(known Extent) error {
	if q.DAGBytes > 0 && known.Bytes > q.DAGBytes {
		return &QuotaError{fmt.Sprintf("it has more than the %d bytes that this account's plan allows", q.DAGBytes)}
	}
	if q.DAGBlocks > 0 && known.Blocks > q.DAGBlocks {
		return &QuotaError{fmt.Sprintf("it has more than the %d blocks that this account's plan allows", q.DAGBlocks)}
	}
	return nil
}

// To add up what is held for an account reads all its pins. So a sum is believed for a hundred times as long as it took,
// at most for heldFor: that of a small account is fresh, and that of a large one costs little.
const (
	heldFor      = time.Minute
	heldFactor   = 100
	heldAccounts = 10_000 // that are remembered

	// Who must not go by a sum that is older than his question waits for so many times as long as the last one took.
	againFactor = 10
	againFor    = 10 * time.Second // at most
)

// sums remembers what was added up for accounts.
type sums[T any] struct {
	ask   func(ctx context.Context, account Account) (T, error)
	known *lru.Cache[Account, *sum[T]]
}

type sum[T any] struct {
	mu    sync.Mutex // one caller adds up, the others wait for it
	began time.Time  // when the value was asked for
	added time.Time  // when it was known
	until time.Time  // of the process
	value T
}

func newSums[T any](ask func(ctx context.Context, account Account) (T, error)) *sums[T] {
	known, err := lru.New[Account, *sum[T]](heldAccounts)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &sums[T]{ask: ask, known: known}
}

func (h *sums[T]) entry(account Account) *sum[T] {
	entry := &sum[T]{}
	if other, ok, _ := h.known.PeekOrAdd(account, entry); ok {
		entry = other
	}
	return entry
}

func (h *sums[T]) of(ctx context.Context, account Account) (value T, err error) {
	entry := h.entry(account)
	entry.mu.Lock()
	defer entry.mu.Unlock()
	started := time.Now()
	if started.Before(entry.until) {
		return entry.value, nil
	}
	if value, err = h.ask(ctx, account); err != nil {
		return value, err
	}
	took := time.Since(started)
	entry.began, entry.added = started, started.Add(took)
	entry.until, entry.value = entry.added.Add(min(heldFactor*took, heldFor)), value
	return value, nil
}

// change changes what is remembered by something that has happened since a time. What was added up meanwhile may know of it
// already, and is forgotten.
func (h *sums[T]) change(account Account, since time.Time, by func(T) T) {
	entry, ok := h.known.Peek(account)
	if !ok {
		return
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	if entry.added.After(since) {
		entry.until = time.Time{}
		return
	}
	entry.value = by(entry.value)
}

// again has the next caller go by what was added up after a time: it adds up again, unless another has meanwhile. It returns
// when that may be, so that those who want it over and over take a tenth of the time of the database at most, where a sum takes
// up to a second.
func (h *sums[T]) again(ctx context.Context, account Account, since time.Time) error {
	entry := h.entry(account)
	for {
		rest := entry.expire(since)
		if rest <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(rest):
		}
	}
}

// expire has a sum added up again that is not from after a time, or tells how long that must wait.
func (e *sum[T]) expire(since time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.began.After(since) {
		return 0
	}
	rest := time.Until(e.added.Add(min(againFactor*e.added.Sub(e.began), againFor)))
	if rest <= 0 {
		e.until = time.Time{}
	}
	return rest
}

// Size returns the bytes of a DAG that is held, or was until it was let go or lost; 0 where nobody knows.
func (s *Service) Size(ctx context.Context, root cid.Cid) (int64, error) {
	return s.store.size(ctx, spec.Canonical(root))
}

// Retry tries pins of an account again that have failed for a reason: the first word of what their info tells. Those that
// were let go are wanted again when the reason is that of Lapse. Where an account's own reason is not kept, because it was that
// of all who could not have the DAG or they were too many, it is not known whose the reason is that the root tells: with money
// come those too that another account perhaps could not have for want of room. What this one has no room for money does not
// change, and it would be fetched again only to be refused.
func (s *Service) Retry(ctx context.Context, account Account, reason string) error {
	var returned bool
	var err error
	others := ""
	if reason == spec.ReasonInsufficientFunds {
		others = spec.ReasonQuotaExceeded
		returned, err = s.store.unlapse(ctx, account)
	}
	retried := false
	if err == nil {
		retried, err = s.store.retry(ctx, account, reason, others)
	}
	if returned || retried {
		s.sched.poke()
	}
	if err != nil {
		return fmt.Errorf("trying failed pins of account %d again: %w", account, err)
	}
	return nil
}
