package e2e_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// readyWithin is how long the server may take to be ready, whatever it was doing when it was killed.
const readyWithin = 5 * time.Second

// Writers use the API as fast as it answers while the server is killed at random moments. Each keeps a model of what
// was acknowledged to it, and after every restart the API must show exactly that: nothing lost, nothing back, and of
// the one request that was under way either all or nothing.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
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
				held: map[string]string{}, removed: map[string]bool{},
			})
		}
		rng := rand.New(rand.NewPCG(seed, 1<<32))
		var slowest time.Duration
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
			took := s.start()
			slowest = max(slowest, took)
			for _, w := range writers {
				w.reconcile()
			}
			if t.Failed() {
				t.Fatalf("in cycle %d of %d", cycle+1, cycles)
			}
		}
		if slowest > readyWithin && !raced {
			t.Errorf("the slowest restart took %s; want at most %s", slowest, readyWithin)
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

	held    map[string]string // id -> CID of what was acknowledged and not removed
	removed map[string]bool   // ids whose removal or replacement was acknowledged
	order   []string          // the keys of held, so that the seed decides which is picked
	pending *operation        // what had no answer when the server died

	acknowledged int
}

// An operation removes a pin, adds one, or both at once, which is a replacement.
type operation struct{ removes, adds string }

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
	if len(w.order) > 0 && kind >= 2 {
		op.removes = w.order[w.rng.IntN(len(w.order))]
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

func (w *writer) apply(op operation, id string) {
	if op.removes != "" {
		delete(w.held, op.removes)
		w.removed[op.removes] = true
	}
	if op.adds != "" {
		w.held[id] = op.adds
	}
	w.order = w.order[:0]
	for id := range w.held {
		w.order = append(w.order, id)
	}
}

// reconcile compares the API with the model and settles what became of the pending operation.
func (w *writer) reconcile() {
	w.t.Helper()
	shown := w.api.all()
	var unknown []pinStatus
	for id, p := range shown {
		switch root, ok := w.held[id]; {
		case w.removed[id]:
			w.t.Errorf("pin %s is back after its removal was acknowledged: %+v", id, p)
		case !ok:
			unknown = append(unknown, p)
		case root != p.Pin.CID:
			w.t.Errorf("pin %s has CID %s; want %s", id, p.Pin.CID, root)
		}
		if p.Status == "failed" {
			w.t.Errorf("pin %s failed: %v", id, p.Info)
		}
	}
	var missing []string
	for id := range w.held {
		if _, ok := shown[id]; !ok {
			missing = append(missing, id)
		}
	}
	op := w.pending
	w.pending = nil
	switch {
	case len(unknown) == 0 && len(missing) == 0:
		// Not done. A pending removal of what is still shown may be tried again.
	case op == nil,
		len(unknown) > 1 || len(unknown) == 1 && unknown[0].Pin.CID != op.adds,
		len(missing) > 1 || len(missing) == 1 && missing[0] != op.removes,
		(op.adds != "") != (len(unknown) == 1), (op.removes != "") != (len(missing) == 1):
		w.t.Errorf("after the restart %v are lost and %+v have appeared; the unanswered operation was %+v", missing, unknown, op)
	case op.adds != "":
		w.apply(*op, unknown[0].ID)
	default:
		w.apply(*op, "")
	}
}
