package e2e_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// How long the server may take to be ready, whatever it was doing when it was killed.
const (
	readyWithin = 5 * time.Second  // in half of its starts
	readyAlways = 30 * time.Second // also while the machine is busy with something else
)

// Writers use the API as fast as it answers while the server is killed at random moments. Each keeps a model of what
// was acknowledged to it, and after every restart the API must show exactly that: nothing lost, nothing back, and of
// the one request that was under way either all or nothing.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) { //nolint:tparallel // one database after the other
	t.Parallel() // it waits for restarts most of the time
	eachDatabase(t, func(t *testing.T, settings ...string) {
		cycles := count(t, "FROSTPIN_KILL_CYCLES", 10)
		author := startIPFS(t)
		s := startServer(t, settings...)

		shared := content{origins: author.addresses()}
		for range 40 {
			shared.roots = append(shared.roots, author.addText(string(noise(300)), "--cid-version=1"))
		}
		seed := rand.Uint64()
		t.Logf("seed %d, %d cycles", seed, cycles)
		var writers []*writer
		for i := range 6 {
			token := s.newToken("writer-" + string(rune('a'+i)))
			writers = append(writers, &writer{
				t: t, api: s.as(token), shared: shared, rng: rand.New(rand.NewPCG(seed, uint64(i))),
				model: newModel(),
			})
		}
		rng := rand.New(rand.NewPCG(seed, 1<<32))
		var restarts []time.Duration
		for cycle := range cycles {
			var group sync.WaitGroup
			for _, w := range writers {
				group.Go(w.run)
			}
			<-time.After(time.Duration(rng.IntN(800)) * time.Millisecond)
			s.proc.kill()
			group.Wait()
			if cycle%4 == 3 { // and once more while it is getting up
				s.launch()
				<-time.After(time.Duration(rng.IntN(600)) * time.Millisecond)
				s.proc.kill()
			}
			restarts = append(restarts, s.start())
			for _, w := range writers {
				w.reconcile()
			}
			if t.Failed() {
				t.Fatalf("in cycle %d of %d", cycle+1, cycles)
			}
		}
		slices.Sort(restarts)
		median, slowest := restarts[len(restarts)/2], restarts[len(restarts)-1]
		if (median > readyWithin || slowest > readyAlways) && !raced {
			t.Errorf("half of the restarts took %s, the slowest %s; want at most %s and %s", median, slowest, readyWithin, readyAlways)
		}

		acknowledged := 0
		for _, w := range writers {
			acknowledged += w.acknowledged
			eventually(t, "every pin is pinned: nothing is stuck", func() (bool, any) {
				n := w.api.total("queued,pinning,failed")
				return n == 0, n
			})
			w.reconcile()
		}
		t.Logf("%d acknowledged operations, slowest restart %s", acknowledged, slowest)
		if r := s.cli("doctor"); r.code != 0 {
			t.Errorf("doctor ends with %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		holdsAll(t, s, author, writers)
	})
}

// launch starts the process without waiting for anything.
func (s *server) launch() {
	s.t.Helper()
	s.proc = startProcess(s.t, "frostpin serve", s.command("serve", "--network", s.network, "--listen", s.listen))
}

// holdsAll reads every pinned block from the server, with its author gone.
func holdsAll(t *testing.T, s *server, author *ipfsNode, writers []*writer) {
	t.Helper()
	author.stop()
	reader := startIPFS(t)
	connect(t, reader, s.api().add(pin{CID: identity("delegates, please")}).Delegates)
	read := map[string]bool{}
	for _, w := range writers {
		for _, root := range w.held {
			if !read[root] && !isIdentity(t, root) {
				reader.must("block", "stat", root)
				read[root] = true
			}
		}
	}
	t.Logf("%d distinct blocks read back", len(read))
}

func isIdentity(t *testing.T, root string) bool {
	t.Helper()
	return parse(t, root).Prefix().MhType == 0
}

// content is data of which the author's node has every block.
type content struct {
	roots   []string
	origins []string
}

// A writer is the owner of one account, who does one thing at a time.
type writer struct {
	t      *testing.T
	api    *api
	shared content
	rng    *rand.Rand
	model

	acknowledged int
}

// run works until the server dies.
func (w *writer) run() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		op := w.next()
		id, err := w.do(ctx, op)
		if err != nil {
			w.pending = &op
			return
		}
		w.apply(op, id)
		w.acknowledged++
		if w.t.Failed() {
			return
		}
	}
}

func (w *writer) next() (op operation) {
	kind := w.rng.IntN(4)
	if len(w.ids) > 0 && kind >= 2 {
		op.removes = w.ids[w.rng.IntN(len(w.ids))]
	}
	if op.removes == "" || kind == 3 {
		op.adds = w.shared.roots[w.rng.IntN(len(w.shared.roots))]
		if w.rng.IntN(3) > 0 {
			op.adds = identity(string(rune('a' + w.rng.IntN(26))))
		}
	}
	return op
}

func (w *writer) do(ctx context.Context, op operation) (id string, err error) {
	method, path, body := "POST", "/pins", any(nil)
	if op.removes != "" {
		path += "/" + op.removes
	}
	if op.adds != "" {
		body = pin{CID: op.adds, Name: "crash", Origins: w.shared.origins}
	} else {
		method = "DELETE"
	}
	var got pinStatus
	code, err := w.api.call(ctx, method, path, nil, body, answerTo(op, &got))
	if err == nil && code != 202 {
		w.t.Errorf("%s %s answers %d", method, path, code)
	}
	if err == nil && op.adds != "" && got.Pin.CID != op.adds {
		w.t.Errorf("%s %s answers with the pin %+v", method, path, got)
	}
	return got.ID, err
}

// answerTo is where the answer goes; a removal has an empty one.
func answerTo(op operation, got *pinStatus) any {
	if op.adds == "" {
		return nil
	}
	return got
}

// reconcile compares the API with the model and settles what became of the pending operation.
func (w *writer) reconcile() {
	w.t.Helper()
	shown := map[string]string{}
	for id, p := range w.api.all() {
		shown[id] = p.Pin.CID
		if p.Status == "failed" {
			w.t.Errorf("pin %s failed: %v", id, p.Info)
		}
	}
	for _, problem := range w.settle(shown) {
		w.t.Error(problem)
	}
}
