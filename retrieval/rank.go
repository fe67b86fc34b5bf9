package retrieval

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A record is what is remembered of one provider.
type record struct {
	success float64       // 0 to 1, exponentially weighted
	first   time.Duration // time to the first byte, exponentially weighted
	streak  int           // consecutive failures
	until   time.Time     // it is asked last until then
	busy    time.Time     // it has asked not to be asked before then
	lies    int64
	changed bool // since it was stored
}

const (
	weight        = 0.2 // of the newest observation
	guessedFirst  = 300 * time.Millisecond
	patienceTimes = 4
	streakOpens   = 3 // failures after which a provider gets a pause
	pauseFirst    = 30 * time.Second
	pauseMost     = 10 * time.Minute
	pauseLiar     = time.Hour
	pauseBusy     = time.Minute // at most, whatever Retry-After says
)

// pause puts the provider last until a moment, or until a later one that an earlier failure has set: who lies and then
// says that it is busy does not come back sooner.
func (rec *record) pause(until time.Time) {
	if until.After(rec.until) {
		rec.until = until
	}
}

// strangersMost is how many strangers are remembered, those that were asked last. Anybody can be one, as often as they wish.
const strangersMost = 1024

// ranks remembers providers, best first.
type ranks struct {
	now func() time.Time
	log *slog.Logger

	mu        sync.Mutex
	known     map[string]*record
	strangers *simplelru.LRU[string, *record]
}

func newRanks(now func() time.Time, log *slog.Logger) *ranks {
	r := &ranks{now: now, log: log, known: map[string]*record{}}
	r.strangers, _ = simplelru.NewLRU[string, *record](strangersMost, nil)
	return r
}

// find returns what is remembered of a provider, nil for nothing.
func (r *ranks) find(provider string) *record {
	if strings.HasPrefix(provider, strangerMark) {
		rec, _ := r.strangers.Get(provider)
		return rec
	}
	return r.known[provider]
}

func (r *ranks) of(provider string) *record {
	rec := r.find(provider)
	if rec == nil {
		rec = &record{success: 1, first: guessedFirst}
		if strings.HasPrefix(provider, strangerMark) {
			r.strangers.Add(provider, rec)
		} else {
			r.known[provider] = rec
		}
	}
	return rec
}

// order sorts sources: those that may be asked first, and among them by how soon an answer is to be expected.
func (r *ranks) order(sources []Source) []Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	type ranked struct {
		Source
		paused bool
		cost   float64
	}
	list := make([]ranked, 0, len(sources))
	for _, s := range sources {
		rec := r.of(s.Provider)
		sure := max(rec.success, 0.02)
		list = append(list, ranked{s, now.Before(rec.until), rec.first.Seconds() / (sure * sure)})
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		switch {
		case a.paused != b.paused && a.paused:
			return 1
		case a.paused != b.paused:
			return -1
		case a.cost < b.cost:
			return -1
		case a.cost > b.cost:
			return 1
		}
		return 0
	})
	out := make([]Source, len(list))
	for i, l := range list {
		out[i] = l.Source
	}
	return out
}

// busy returns how long a provider has still asked not to be asked, 0 for not at all.
func (r *ranks) busy(provider string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.find(provider)
	if rec == nil {
		return 0
	}
	return max(0, rec.busy.Sub(r.now()))
}

// served notes a right answer whose first byte took so long.
func (r *ranks) served(provider string, first time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.of(provider)
	rec.success += weight * (1 - rec.success)
	rec.first += time.Duration(weight * float64(first-rec.first))
	rec.streak, rec.changed = 0, true
	if rec.lies == 0 {
		rec.until = time.Time{}
	}
}

// outrun notes that a provider had brought nothing after so long, when another was asked or was there first. That is no
// failure, but it is known now that it takes longer.
func (r *ranks) outrun(provider string, waited time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.of(provider)
	if waited > rec.first {
		rec.first += time.Duration(weight * float64(waited-rec.first))
		rec.changed = true
	}
}

// patience is how long a provider may take before another is asked beside it: a few times what it usually takes, and
// never longer than most.
func (r *ranks) patience(provider string, most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return min(max(patienceTimes*r.of(provider).first, most/patienceTimes), most)
}

// failed notes what else an answer was.
func (r *ranks) failed(provider string, f failure) {
	if f.left {
		return // nothing new is known, and to note it again would put the end off for ever
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.of(provider)
	rec.changed = true
	now := r.now()
	switch {
	case f.lie:
		rec.success, rec.streak, rec.until = 0, rec.streak+1, now.Add(pauseLiar)
		rec.lies++
		r.log.LogAttrs(context.Background(), slog.LevelWarn, "a provider has sent wrong bytes",
			slog.String("provider", provider), slog.Int64("lies", rec.lies), slog.Any("err", f.err))
	case f.class == Busy:
		rec.pause(now.Add(min(max(f.after, time.Second), pauseBusy)))
		if f.after > 0 {
			rec.busy = now.Add(min(f.after, pauseBusy))
		}
	case f.class == Absent:
		// It may have all the others.
		rec.success -= weight * rec.success / 2
	default:
		rec.success -= weight * rec.success
		if rec.streak++; rec.streak >= streakOpens {
			pause := pauseFirst
			for i := streakOpens; i < rec.streak && pause < pauseMost; i++ {
				pause *= 2
			}
			rec.pause(now.Add(min(pause, pauseMost)))
		}
	}
}

// changed returns copies of the records that are not stored yet. Those of strangers never are.
func (r *ranks) changed() map[string]record {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]record{}
	for name, rec := range r.known {
		if rec.changed {
			rec.changed = false
			out[name] = *rec
		}
	}
	return out
}

// unkept has records stored later, because they could not be stored now.
func (r *ranks) unkept(records map[string]record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range records {
		r.known[name].changed = true
	}
}

// adopt takes what an earlier process has stored, where nothing newer is known.
func (r *ranks) adopt(stored map[string]record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, rec := range stored {
		if r.known[name] == nil {
			r.known[name] = &rec
		}
	}
}

// firstByte is the time until a provider's answers begin; zero when it has served nothing yet.
func (r *ranks) firstByte(provider string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec := r.find(provider); rec != nil && rec.first != guessedFirst {
		return rec.first
	}
	return 0
}
