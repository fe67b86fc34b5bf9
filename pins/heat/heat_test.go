package heat_test

import (
	"container/heap"
	"container/list"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/frostpin/frostpin/pins/heat"
)

// A trace is a load: DAGs that all came at the start, and reads of them in order, evenly over a span of time.
type trace struct {
	sizes []int64
	reads []int32
	span  time.Duration
}

var start = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func (t trace) at(i int) time.Time {
	return start.Add(48*time.Hour + time.Duration(float64(t.span)*float64(i)/float64(len(t.reads))))
}

func (t trace) total() (n int64) {
	for _, size := range t.sizes {
		n += size
	}
	return n
}

// zipf draws reads whose frequency falls with the rank to the power of s, over DAGs whose sizes spread over six orders
// of magnitude and have nothing to do with it. Popularity drifts: in each tenth of the trace other DAGs are the first.
func zipf(s float64, dags, reads int, seed uint64) trace {
	r := rand.New(rand.NewPCG(seed, 1))
	t := trace{span: 30 * 24 * time.Hour, sizes: make([]int64, dags), reads: make([]int32, reads)}
	for i := range t.sizes {
		t.sizes[i] = int64(math.Exp(math.Log(1<<10)+r.Float64()*math.Log(1<<20)) + 1)
	}
	sums := make([]float64, dags)
	sum := 0.0
	for i := range sums {
		sum += math.Pow(float64(i+1), -s)
		sums[i] = sum
	}
	order := make([]int32, dags)
	for i := range order {
		order[i] = int32(i)
	}
	r.Shuffle(dags, func(i, j int) { order[i], order[j] = order[j], order[i] })
	for i := range t.reads {
		if i%(reads/10) == 0 {
			for range dags / 50 { // a part of the places changes hands
				a, b := r.IntN(dags), r.IntN(dags)
				order[a], order[b] = order[b], order[a]
			}
		}
		rank, _ := slices.BinarySearch(sums, r.Float64()*sum)
		t.reads[i] = order[min(rank, dags-1)]
	}
	return t
}

// warm is the part of a trace after which hits are counted.
const warm = 5

// ours plays a trace against the policy, with the rules by which the service applies it: a pass now and then lets go
// down to the low mark what is ripe, and what deserves it comes back when there is room.
func ours(t trace, quota int64, least time.Duration) (ratio float64, lets int) {
	records := make([]heat.Record, len(t.sizes))
	came := make([]time.Time, len(t.sizes))
	here := make([]bool, len(t.sizes))
	var used int64
	for i, size := range t.sizes {
		here[i], came[i] = true, start
		used += size
	}
	var clock heat.Clock
	hits := 0
	pass := func(now time.Time) {
		if float64(used) <= heat.High*float64(quota) {
			return
		}
		var order []int
		for i := range t.sizes {
			if here[i] && records[i].Ripe(came[i], now, least) {
				order = append(order, i)
			}
		}
		highest := 0.0
		defer func() { clock = clock.After(highest, now) }()
		worth := func(i int) float64 { return records[i].Priority(t.sizes[i], 2, came[i], now) }
		slices.SortFunc(order, func(a, b int) int {
			if worth(a) < worth(b) {
				return -1
			}
			return 1
		})
		for _, i := range order {
			if float64(used) <= heat.Low*float64(quota) {
				return
			}
			highest = max(highest, worth(i))
			here[i], used = false, used-t.sizes[i]
			records[i] = records[i].WasLetGo(now)
			lets++
		}
	}
	for n, i := range t.reads {
		now := t.at(n)
		if n%500 == 0 {
			pass(now)
		}
		if here[i] {
			if n > len(t.reads)/warm {
				hits++
			}
		} else if used+t.sizes[i] <= quota && records[i].Deserves(1, t.sizes[i], 2, clock, now) {
			here[i], came[i], used = true, now, used+t.sizes[i]
			records[i] = records[i].CameBack(now)
		}
		records[i] = records[i].Touched(1, now, clock)
	}
	return float64(hits) / float64(len(t.reads)-len(t.reads)/warm), lets
}

// lru plays a trace against a cache that lets go what was not read for the longest time and takes in all that is read.
func lru(t trace, quota int64) float64 {
	recent := list.New()
	at := make([]*list.Element, len(t.sizes))
	var used int64
	hits := 0
	for n, i := range t.reads {
		if at[i] != nil {
			recent.MoveToFront(at[i])
			if n > len(t.reads)/warm {
				hits++
			}
			continue
		}
		if t.sizes[i] > quota {
			continue
		}
		for used += t.sizes[i]; used > quota; {
			last := recent.Back()
			old := recent.Remove(last).(int32)
			at[old] = nil
			used -= t.sizes[old]
		}
		at[i] = recent.PushFront(i)
	}
	return float64(hits) / float64(len(t.reads)-len(t.reads)/warm)
}

// ranked plays a trace against a cache that takes in all that is read and lets go what is worth least. worth is told how
// often a DAG was read, its size and what the last one to go was worth.
func ranked(t trace, quota int64, worth func(reads int, size int64, last float64) float64) float64 {
	q := &queue{at: make([]int, len(t.sizes)), worth: make([]float64, len(t.sizes))}
	for i := range q.at {
		q.at[i] = -1
	}
	count := make([]int, len(t.sizes))
	last, used, hits := 0.0, int64(0), 0
	for n, i := range t.reads {
		if count[i]++; q.at[i] >= 0 {
			if n > len(t.reads)/warm {
				hits++
			}
			q.worth[i] = worth(count[i], t.sizes[i], last)
			heap.Fix(q, q.at[i])
			continue
		}
		if t.sizes[i] > quota {
			continue
		}
		for used += t.sizes[i]; used > quota; {
			old := heap.Pop(q).(int32)
			last, used = q.worth[old], used-t.sizes[old]
		}
		q.worth[i] = worth(count[i], t.sizes[i], last)
		heap.Push(q, i)
	}
	return float64(hits) / float64(len(t.reads)-len(t.reads)/warm)
}

// A queue is a heap of DAGs by what they are worth.
type queue struct {
	dags  []int32
	at    []int // of each DAG in dags; -1: it is not there
	worth []float64
}

func (q *queue) Len() int           { return len(q.dags) }
func (q *queue) Less(i, j int) bool { return q.worth[q.dags[i]] < q.worth[q.dags[j]] }

func (q *queue) Swap(i, j int) {
	q.dags[i], q.dags[j] = q.dags[j], q.dags[i]
	q.at[q.dags[i]], q.at[q.dags[j]] = i, j
}

func (q *queue) Push(x any) {
	q.at[x.(int32)] = len(q.dags)
	q.dags = append(q.dags, x.(int32))
}

func (q *queue) Pop() any {
	x := q.dags[len(q.dags)-1]
	q.dags, q.at[x] = q.dags[:len(q.dags)-1], -1
	return x
}

// TestMoreReadsAreHotThanWithLRU has a tenth of the room that all DAGs would take. The more the reads go to a few DAGs, the less
// there is to gain over LRU; the others are the best of what is known, without the promise of a least stay.
func TestMoreReadsAreHotThanWithLRU(t *testing.T) {
	t.Parallel()
	const reads = 1_000_000
	for _, c := range []struct{ s, gain float64 }{{0.7, 0.05}, {0.9, 0.05}, {1.1, 0.05}} {
		t.Run(fmt.Sprintf("Zipf %.1f", c.s), func(t *testing.T) {
			t.Parallel()
			load := zipf(c.s, reads/20, reads, uint64(100*c.s))
			quota := load.total() / 10
			got, lets := ours(load, quota, 24*time.Hour)
			base := lru(load, quota)
			gdsf := ranked(load, quota, func(n int, size int64, last float64) float64 { return last + float64(n)/float64(size) })
			lfu := ranked(load, quota, func(n int, _ int64, _ float64) float64 { return float64(n) })
			t.Logf("%.3f of reads are hot; LRU %.3f, LFU %.3f, GDSF %.3f; %d DAGs let go", got, base, lfu, gdsf, lets)
			if got < base+c.gain {
				t.Errorf("%.3f of reads are hot, with LRU %.3f", got, base)
			}
			if best := max(base, lfu, gdsf); got < 0.95*best {
				t.Errorf("%.3f of reads are hot, with the best of the others %.3f", got, best)
			}
		})
	}
}

func TestFirstReadPassesThroughAndTheSecondBringsBack(t *testing.T) {
	day := 24 * time.Hour
	gone := heat.Record{Score: 3, Read: start.Add(-9 * day), LetGo: start.Add(-5 * day)}
	once := gone.Touched(1, start.Add(-day), heat.Clock{})
	for name, c := range map[string]struct {
		record heat.Record
		n      int
		want   bool
	}{
		"never read":                   {heat.Record{LetGo: start.Add(-5 * day)}, 1, false},
		"read before it was let go":    {gone, 1, false},
		"twice at once":                {gone, 2, true},
		"read yesterday":               {once, 1, true},
		"read long ago":                {gone.Touched(1, start.Add(-4*day), heat.Clock{}), 1, false},
		"let go an hour ago":           {gone.WasLetGo(start.Add(-time.Hour)), 1, true},
		"let go longer than a day ago": {gone.WasLetGo(start.Add(-day - time.Second)), 1, false},
	} {
		if got := c.record.Deserves(c.n, 1<<20, 2, heat.Clock{}, start); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestWhatWouldSoonGoAgainDoesNotComeBack(t *testing.T) {
	clock := heat.Clock{}.After(1e-6, start).After(3e-6, start) // the last pass has moved it by 2e-6
	r := heat.Record{}.Touched(1, start, clock).WasLetGo(start)
	for name, c := range map[string]struct {
		bytes int64
		at    time.Time
		want  bool
	}{
		"small":                   {1 << 20, start.Add(time.Hour), true}, // two reads are worth 4/1048576
		"large":                   {1 << 23, start.Add(time.Hour), false},
		"large, after calm weeks": {1 << 23, start.Add(4 * 7 * 24 * time.Hour), true},
	} {
		if got := r.Deserves(2, c.bytes, 2, clock, c.at); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestWhatReturnsAtOnceStaysLonger(t *testing.T) {
	const least = 24 * time.Hour
	came := start
	var r heat.Record
	if r.Ripe(came, came.Add(least-time.Second), least) || !r.Ripe(came, came.Add(least), least) {
		t.Error("what was never read does not stay for the least time")
	}
	read := r.Touched(1, came.Add(5*time.Hour), heat.Clock{})
	if read.Ripe(came, came.Add(least), least) || !read.Ripe(came, came.Add(5*time.Hour+least), least) {
		t.Error("a read does not begin the least time again")
	}
	for n := 1; n <= 7; n++ {
		r = r.WasLetGo(came).CameBack(came.Add(time.Hour))
		want := least << min(n, 5)
		if r.Ripe(came, came.Add(want-time.Second), least) || !r.Ripe(came, came.Add(want), least) {
			t.Errorf("after %d returns it does not stay for %s", n, want)
		}
	}
	if late := (heat.Record{}).WasLetGo(came).CameBack(came.Add(heat.Ghost + time.Second)); late.Returns != 0 {
		t.Error("a return after a long time counts")
	}
}

func TestPriorityGrowsWithReadsAndCostAndFallsWithSizeAndTime(t *testing.T) {
	r := heat.Record{}.Touched(4, start, heat.Clock{})
	base := r.Priority(1<<20, 2, start, start)
	for name, bigger := range map[string]bool{
		"more reads":     r.Touched(1, start, heat.Clock{}).Priority(1<<20, 2, start, start) > base,
		"dearer":         r.Priority(1<<20, 4, start, start) > base,
		"larger":         r.Priority(1<<21, 2, start, start) < base,
		"later":          r.Priority(1<<20, 2, start, start.Add(time.Hour)) < base,
		"after others":   r.Touched(1, start, heat.Clock{At: 1}).Priority(1<<20, 2, start, start) > 1,
		"half forgotten": math.Abs(r.Priority(1<<20, 2, start, start.Add(heat.HalfLife))/base-0.5) < 1e-9,
		"clock set back": r.Priority(1<<20, 2, start, start.Add(-time.Hour)) == base,
		"no bytes":       !math.IsInf(r.Priority(0, 2, start, start), 0),
		"never read":     (heat.Record{}).Priority(1<<20, 2, start, start) == heat.Record{}.Touched(1, start, heat.Clock{}).Priority(1<<20, 2, start, start),
	} {
		if !bigger {
			t.Error(name)
		}
	}
}
