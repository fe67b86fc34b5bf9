package pins

import (
	"context"
	"sync"

	"github.com/frostpin/frostpin/spec"
)

// An Asked is one request of many.
type Asked struct {
	spec.Request
	Decision
	Batch *Batch // that it belongs to; nil: none that is remembered
	Place int    // in the whole list of the batch
}

// A Result is what came of one request of many.
type Result struct {
	Pin Pin
	Err error // nil: it is recorded, durably
}

// batchLooks is how many requests of a batch look for blocks that are here at the same time.
const batchLooks = 32

// AddAll is Add for many requests, which share transactions. Results are in the order of the requests, and so are the times
// at which the pins were created. One that cannot be recorded does not keep the others from it. When ctx ends, what has
// not begun is not recorded. Of a batch that another server has taken over nothing is recorded any more: ErrOvertaken.
func (s *Service) AddAll(ctx context.Context, account Account, asked []Asked) []Result {
	tickets := make([]ticket, len(asked))
	additions := make([]*addition, len(asked))
	for i, w := range asked {
		tickets[i] = s.sched.ticket(account, w.Root)
		additions[i] = newAddition(account, w.Request, w.Decision, tickets[i].claim)
		additions[i].batch, additions[i].place = w.Batch, w.Place
	}
	s.store.enqueue(additions...) //nolint:contextcheck // who inserts them serves others too
	results := make([]Result, len(asked))
	looking := make(chan struct{}, batchLooks)
	var begun sync.WaitGroup
	for i, a := range additions {
		err := s.store.inserted(ctx, a)
		looking <- struct{}{}
		begun.Go(func() {
			defer func() { <-looking }()
			results[i].Pin, results[i].Err = s.begin(ctx, tickets[i], a, err)
		})
	}
	begun.Wait()
	return results
}
