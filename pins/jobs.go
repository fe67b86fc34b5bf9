package pins

import (
	"context"
	"slices"
	"sync"
)

// A job is a root that this process has claimed and is working on.
type job struct {
	root     Root
	retry    bool
	urgent   bool // it holds up collections, so it needs no room
	walking  bool // it has a slot
	progress Progress
	ctx      context.Context //nolint:containedctx // a job lives longer than the call that starts it
	cancel   context.CancelFunc
	asked    map[Account]ID // for which something may be set aside
	payer    Account        // who could have the DAG when it was asked last; 0: nobody was
	release  func()         // undoes the connections to its origins
}

// A shares divides places among accounts. An account may take one place more while it has fewer than half as many as
// are free, and always its first: one account alone gets a third of all places, and whoever comes next still finds
// room at once.
type shares struct {
	size  int
	used  int
	byOne map[Account]int
}

func newShares(size int) *shares { return &shares{size: size, byOne: map[Account]int{}} }

// room returns how many more places the account may take now.
func (s *shares) room(a Account) int {
	free := s.size - s.used
	if free <= 0 {
		return 0
	}
	// The largest k for which the k-th place is taken while the account still has less than half of what is free.
	k := (free - 2*s.byOne[a] + 2) / 3
	if s.byOne[a] == 0 {
		k = max(k, 1)
	}
	return max(0, min(k, free))
}

func (s *shares) take(a Account, n int) {
	s.used += n
	s.byOne[a] += n
}

func (s *shares) give(a Account) {
	s.used--
	if s.byOne[a]--; s.byOne[a] == 0 {
		delete(s.byOne, a)
	}
}

// jobs is what this process works on. Nothing in it is needed after a restart: every job's root is a claimed row.
type jobs struct {
	mu        sync.Mutex
	byRoot    map[int64]*job
	finding   *shares // roots looked for, and places reserved for requests being recorded
	walking   *shares
	ready     map[Account][]*job // root block here, waiting for a slot
	releasing map[int64]bool
	alone     int64   // the root that may be walked while there is little room
	retries   int     // walks of roots that have failed before
	offered   []Root  // claimed by a request, to be looked for
	returned  []int64 // claimed by a request, to be given back
}

func newJobs(find, slots int) *jobs {
	return &jobs{
		byRoot: map[int64]*job{}, releasing: map[int64]bool{}, finding: newShares(find), walking: newShares(slots), ready: map[Account][]*job{},
	}
}

// nextReady takes the job that should get the next free slot, or nil: from the account with the fewest walks, and a
// root that has failed before only while such roots have less than half of the slots. With little room few go on.
func (j *jobs) nextReady(scarce bool) *job {
	j.mu.Lock()
	defer j.mu.Unlock()
	var best *job
	var at int
	for account, list := range j.ready {
		if j.walking.room(account) == 0 {
			continue
		}
		for i, candidate := range list {
			if scarce && !j.needsNoRoom(candidate) || candidate.retry && j.retries >= max(1, j.walking.size/2) {
				continue
			}
			if best == nil || j.better(candidate, best) {
				best, at = candidate, i
			}
			if !candidate.retry {
				break // the first that was never tried is the best of its account
			}
		}
	}
	if best != nil {
		j.start(best, at)
	}
	return best
}

// start gives a slot to the job that is ready at this place of its account. j.mu is held.
func (j *jobs) start(next *job, at int) {
	a := next.root.Account
	if j.ready[a] = append(j.ready[a][:at], j.ready[a][at+1:]...); len(j.ready[a]) == 0 {
		delete(j.ready, a)
	}
	j.finding.give(a)
	j.walking.take(a, 1)
	next.walking = true
	if next.retry {
		j.retries++
	}
}

func (j *jobs) better(a, b *job) bool {
	if a.retry != b.retry {
		return b.retry
	}
	return j.walking.byOne[a.root.Account] < j.walking.byOne[b.root.Account]
}

// walked ends a walk.
func (j *jobs) walked(done *job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.walking.give(done.root.Account)
	if done.retry {
		j.retries--
	}
	j.forget(done)
}

// forget is for a job that has ended. Its claim was given back before, so that another may have come. j.mu is held.
func (j *jobs) forget(done *job) {
	if j.byRoot[done.root.id] == done {
		delete(j.byRoot, done.root.id)
	}
}

// counts returns how far each running walk has come.
func (j *jobs) counts() []count {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []count
	for id, job := range j.byRoot {
		if blocks, bytes := job.progress.Totals(); blocks > 0 {
			out = append(out, count{id, blocks, bytes})
		}
	}
	return out
}

// knows tells whether this process has a root in hand.
func (j *jobs) knows(id int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.byRoot[id] != nil || j.releasing[id] || slices.Contains(j.returned, id) ||
		slices.ContainsFunc(j.offered, func(r Root) bool { return r.id == id })
}

// release notes that roots are being released, or no longer are.
func (j *jobs) release(roots []Root, running bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range roots {
		if running {
			j.releasing[r.id] = true
		} else {
			delete(j.releasing, r.id)
		}
	}
}

// sizes returns how many roots are looked for and walked.
func (j *jobs) sizes() (finding, walking int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.finding.used, j.walking.used
}
