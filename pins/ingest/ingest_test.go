package ingest_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	car "github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/cmd/database/databasetest"
	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var limits = pins.Limits{Bytes: 1 << 20, Blocks: 500, Depth: 64, BlockSize: 2 << 20}

// carOf is a CAR of version 1 with these blocks.
func carOf(t testing.TB, roots []cid.Cid, list ...blocks.Block) []byte {
	t.Helper()
	var b bytes.Buffer
	out, err := storage.NewWritable(&b, roots, car.WriteAsCarV1(true), car.AllowDuplicatePuts(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range list {
		if err := out.Put(t.Context(), block.Cid().KeyString(), block.RawData()); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

type world struct {
	*ingest.Service
	tier *pinstest.Tier
	pins *pins.Service
	skip atomic.Int64 // by how much the clock is ahead
}

func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	eachWith(t, nil, test)
}

// eachWith has blocks here before the service starts.
func eachWith(t *testing.T, here []blocks.Block, test func(t *testing.T, w *world)) {
	t.Helper()
	databasetest.Each(t, pins.Migrations(), func(t *testing.T, db *database.DB) {
		w := &world{tier: pinstest.NewTier()}
		w.tier.AddLocal(here...)
		log := slog.New(slog.DiscardHandler)
		w.pins = pins.New(pins.Config{
			Limits: limits, Instance: "test", Slots: 4, FindRoots: 40, FindSlice: time.Second, Retain: time.Hour,
			GCEvery: 10 * time.Millisecond,
			Policy:  pins.Policy{Deadline: time.Hour, RetryFirst: time.Second, RetryMax: time.Minute},
		}, db, w.tier, log, func() time.Time { return time.Now().Add(time.Duration(w.skip.Load())) })
		w.Service = ingest.New(w.tier, w.pins, limits)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.pins.Run(ctx) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Errorf("running: %v", err)
			}
		}()
		<-w.pins.Ready()
		test(t, w)
	})
}

func (w *world) count(t *testing.T) int64 {
	t.Helper()
	counts, err := w.pins.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, c := range counts {
		n += c
	}
	return n
}

func TestUploadedCARIsPinnedInTheAnswer(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := pinstest.Tree("a", 300), pinstest.Leaf("b")
		name := "two roots"
		made, fresh, err := w.Upload(t.Context(), ingest.Upload{
			Account: 1, Name: &name, Meta: map[string]string{"k": "v"}, Format: ingest.CAR,
			Body: bytes.NewReader(carOf(t, []cid.Cid{a.Root, b.Root, a.Root}, append(a.Blocks, b.Blocks...)...)),
		})
		if err != nil || !fresh || len(made) != 2 {
			t.Fatalf("%d pins, fresh %t, %v; want 2", len(made), fresh, err)
		}
		for i, root := range []cid.Cid{a.Root, b.Root} {
			if p := made[i]; p.Status() != spec.Pinned || p.CID != root.String() || *p.Name != name || p.Meta["k"] != "v" {
				t.Errorf("pin %d is %s of %s, %v, %v", i, p.Status(), p.CID, p.Name, p.Meta)
			}
		}
		if n, err := w.tier.Collect(t.Context(), nil); err != nil || n != 0 {
			t.Errorf("%d blocks of what is pinned were collected, %v", n, err)
		}
	})
}

// A refusing Pins has one root that may not be taken in.
type refusing struct {
	*pins.Service
	root cid.Cid
}

var errListed = errors.New("listed")

func (r refusing) Refuse(c cid.Cid) error {
	if c.Equals(r.root) {
		return errListed
	}
	return nil
}

func TestUploadWithARootThatIsRefusedLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		good, bad := pinstest.Tree("good", 3), pinstest.Leaf("bad")
		service := ingest.New(w.tier, refusing{w.pins, bad.Root}, limits)
		_, _, err := service.Upload(t.Context(), ingest.Upload{
			Account: 1, Format: ingest.CAR, Body: bytes.NewReader(carOf(t, []cid.Cid{good.Root, bad.Root}, append(good.Blocks, bad.Blocks...)...)),
		})
		if !errors.Is(err, errListed) {
			t.Errorf("error %v", err)
		}
		if held := w.tier.HeldRoots(); len(held) != 0 || w.count(t) != 0 {
			t.Errorf("%v are held, and there are %d pins", held, w.count(t))
		}
	})
}

// collecting are pins of a server whose tier another one collects while an upload is at work.
type collecting struct {
	*pins.Service
	collect func()
}

func (c collecting) BeginHold(ctx context.Context, roots []cid.Cid) (string, error) {
	c.collect()
	return c.Service.BeginHold(ctx, roots)
}

// The client has sent all of it, and does well to send it again.
func TestUploadOfWhichABlockHasGoneIsNoFaultOfItsClient(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("d", 20)
		service := ingest.New(w.tier, collecting{w.pins, func() { w.tier.RemoveLocal(d.Blocks[5].Cid()) }}, limits)
		_, _, err := service.Upload(t.Context(), ingest.Upload{Account: 1, Format: ingest.CAR, Body: bytes.NewReader(carOf(t, []cid.Cid{d.Root}, d.Blocks...))})
		if !errors.Is(err, pins.ErrUnavailable) || errors.Is(err, spec.ErrInvalid) {
			t.Errorf("error %v", err)
		}
		if w.count(t) != 0 {
			t.Errorf("there are %d pins", w.count(t))
		}
	})
}

func TestBadUploadLeavesNoPinAndNoBlock(t *testing.T) {
	d := pinstest.Tree("d", 20)
	whole := carOf(t, []cid.Cid{d.Root}, d.Blocks...)
	wrong := carOf(t, []cid.Cid{d.Root}, append([]blocks.Block{pinstest.Corrupted(d.Blocks[3])}, d.Blocks...)...)
	escape := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&h), w.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	many := make([]blocks.Block, 501)
	for i := range many {
		many[i] = pinstest.Raw(fmt.Sprint(i))
	}
	away := errors.New("the client went away")
	for _, c := range []struct {
		name   string
		format ingest.Format
		body   io.Reader
		want   string // in the error
		large  bool
	}{
		{"no car", ingest.CAR, strings.NewReader("hello"), "is not a CAR", false},
		{"empty", ingest.CAR, strings.NewReader(""), "is not a CAR", false},
		{"no root", ingest.CAR, bytes.NewReader(carOf(t, nil, d.Blocks...)), "without a root", false},
		{"breaks off", ingest.CAR, bytes.NewReader(whole[:len(whole)-5]), "breaks off", false},
		{"a block is missing", ingest.CAR, bytes.NewReader(carOf(t, []cid.Cid{d.Root}, d.Blocks[:20]...)), "block " + d.Blocks[20].Cid().String() + " is missing", false},
		{"wrong bytes", ingest.CAR, bytes.NewReader(wrong), "not those that its CID names", false},
		{"too many blocks", ingest.CAR, bytes.NewReader(carOf(t, []cid.Cid{many[0].Cid()}, many...)), "more blocks than the limit", true},
		{"too many bytes", ingest.CAR, bytes.NewReader(carOf(t, []cid.Cid{d.Root}, pinstest.Raw(strings.Repeat("x", 1<<20+1)))), "larger than the limit", true},
		{"client goes away", ingest.CAR, io.MultiReader(bytes.NewReader(whole[:5000]), failing{away}), away.Error(), false},
		{"file that is too large", ingest.File, strings.NewReader(strings.Repeat("x", 1<<20+1)), "larger than the limit", true},
		{"file whose client goes away", ingest.File, io.MultiReader(strings.NewReader(strings.Repeat("x", 300<<10)), failing{away}), away.Error(), false},
		{"no tar", ingest.Tar, strings.NewReader(strings.Repeat("hello", 1000)), "is not a tar", false},
		{"empty tar", ingest.Tar, strings.NewReader(""), "no file", false},
		{"traversal", ingest.Tar, bytes.NewReader(escape(tar.Header{Name: "a/../../b", Typeflag: tar.TypeReg})), "leads out", false},
		{"absolute", ingest.Tar, bytes.NewReader(escape(tar.Header{Name: "/etc/passwd", Typeflag: tar.TypeReg})), "not below", false},
		{"device", ingest.Tar, bytes.NewReader(escape(tar.Header{Name: "null", Typeflag: tar.TypeChar})), "no file, directory", false},
		{"no form", ingest.Multipart, strings.NewReader("hello"), "not a form", false},
		{"form that breaks off", ingest.Multipart, strings.NewReader("--b\r\nContent-Disposition: form-data; name=f; filename=a\r\n\r\nhello"), "breaks off", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			tier := pinstest.NewTier()
			db := databasetest.Open(t)
			if err := db.Migrate(t.Context(), pins.Migrations()...); err != nil {
				t.Fatal(err)
			}
			service := pins.New(pins.Config{Limits: limits, Instance: "test"}, db, tier, slog.New(slog.DiscardHandler), time.Now)
			_, _, err := ingest.New(tier, service, limits).Upload(t.Context(), ingest.Upload{Account: 1, Format: c.format, Body: c.body, Boundary: "b"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want %q", err, c.want)
			}
			large := (*ingest.LargeError)(nil)
			if errors.As(err, &large) != c.large || !c.large && !errors.Is(err, spec.ErrInvalid) && !errors.Is(err, away) {
				t.Errorf("error %T, want one about the limits: %t", err, c.large)
			}
			if w := (&world{pins: service}); w.count(t) != 0 || len(tier.HeldRoots()) != 0 {
				t.Errorf("%d pins and %d held roots are left", w.count(t), len(tier.HeldRoots()))
			}
			if _, err := tier.Collect(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			if u, err := tier.Usage(t.Context()); err != nil || u.Bytes != 0 {
				t.Errorf("%d bytes are left after a collection, %v", u.Bytes, err)
			}
		})
	}
}

// Nothing is ever released here: what an upload leaves behind has to be collected for itself.
func TestWhatAnUploadLeavesIsCollected(t *testing.T) {
	d, junk, before := pinstest.Tree("d", 300), pinstest.Leaf("junk"), pinstest.Leaf("before")
	whole := carOf(t, []cid.Cid{d.Root}, append(junk.Blocks, d.Blocks...)...)
	for _, c := range []struct {
		name string
		body func() io.Reader
		ok   bool
	}{
		{"client goes away", func() io.Reader {
			return io.MultiReader(bytes.NewReader(whole[:len(whole)-100]), failing{errors.New("the client went away")})
		}, false},
		{"not the whole DAG", func() io.Reader {
			return bytes.NewReader(carOf(t, []cid.Cid{d.Root}, append(junk.Blocks, d.Blocks[:300]...)...))
		}, false},
		{"more than the DAG", func() io.Reader { return bytes.NewReader(whole) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWith(t, before.Blocks, func(t *testing.T, w *world) {
				w.untilGone(t, before.Root) // by the first collection, which needs no reason
				_, _, err := w.Upload(t.Context(), ingest.Upload{Account: 1, Format: ingest.CAR, Body: c.body()})
				if (err == nil) != c.ok {
					t.Fatalf("error %v", err)
				}
				w.untilGone(t, junk.Root)
				if w.tier.Has(d.Root) != c.ok {
					t.Errorf("the DAG is here: %t", !c.ok)
				}
			})
		})
	}
}

func (w *world) untilGone(t *testing.T, c cid.Cid) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); w.tier.Has(c); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s was never collected", c)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestRepeatedUploadMakesNoOtherPins(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := pinstest.Leaf("a"), pinstest.Leaf("b")
		body := carOf(t, []cid.Cid{a.Root, b.Root}, append(a.Blocks, b.Blocks...)...)
		upload := func(account pins.Account, key string) []pins.Pin {
			t.Helper()
			made, _, err := w.Upload(t.Context(), ingest.Upload{Account: account, Key: key, Format: ingest.CAR, Body: bytes.NewReader(body)})
			if err != nil || len(made) != 2 {
				t.Fatalf("%d pins, %v", len(made), err)
			}
			return made
		}
		first := upload(1, "k")
		if again := upload(1, "k"); again[0].ID != first[0].ID || again[1].ID != first[1].ID || w.count(t) != 2 {
			t.Errorf("the repeated upload returned %s and %s; there are %d pins", again[0].ID, again[1].ID, w.count(t))
		}
		// One that was cut off between its pins is finished.
		if err := w.pins.Delete(t.Context(), 1, first[1].ID); err != nil {
			t.Fatal(err)
		}
		if again := upload(1, "k"); again[0].ID != first[0].ID || again[1].ID == first[1].ID || w.count(t) != 2 {
			t.Errorf("the finished upload returned %s and %s; there are %d pins", again[0].ID, again[1].ID, w.count(t))
		}
		upload(1, "other key")
		upload(2, "k") // another account
		upload(1, "")
		upload(1, "")
		w.skip.Store(int64(25 * time.Hour))
		if upload(1, "k")[0].ID == first[0].ID || w.count(t) != 12 {
			t.Errorf("%d pins, want 12: a key is forgotten after a day", w.count(t))
		}
	})
}

// A body does not tell how large a DAG is of which there are blocks already.
func TestUploadIsAdmittedByTheSizeOfItsDAGs(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b := pinstest.Tree("a", 20), pinstest.Leaf("b")
		roots := []cid.Cid{a.Root, b.Root}
		var asked []pins.Sized
		var size int64
		upload := func(account pins.Account, answer error, list ...blocks.Block) ([]pins.Pin, error) {
			asked, size = nil, 0
			made, _, err := w.Upload(t.Context(), ingest.Upload{
				Account: account, Key: "k", Format: ingest.CAR, Body: bytes.NewReader(carOf(t, roots, list...)),
				Admit: func(dags []pins.Sized) error {
					asked = dags
					for _, dag := range dags {
						size += dag.Bytes
					}
					return answer
				},
			})
			return made, err
		}
		first, err := upload(1, nil, append(a.Blocks, b.Blocks...)...)
		if err != nil || len(asked) != 2 || size != a.Size()+b.Size() {
			t.Fatalf("asked about %v of %d bytes, %v; want two of %d", asked, size, err, a.Size()+b.Size())
		}
		if _, err := upload(2, errListed); !errors.Is(err, errListed) || size != a.Size()+b.Size() || w.count(t) != 2 {
			t.Errorf("asked about %d bytes, there are %d pins, %v", size, w.count(t), err)
		}
		if made, err := upload(2, nil); err != nil || len(made) != 2 || w.count(t) != 4 {
			t.Errorf("%d pins of what is here, %v", len(made), err)
		}

		// Of what is acknowledged nobody is asked again.
		if again, err := upload(1, errListed); err != nil || len(again) != 2 || asked != nil {
			t.Errorf("the repeated upload: %d pins, asked about %v, %v", len(again), asked, err)
		}
		if err := w.pins.Delete(t.Context(), 1, first[1].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := upload(1, nil); err != nil || len(asked) != 1 || size != b.Size() {
			t.Errorf("the finished upload: asked about %v of %d bytes, %v; want one of %d", asked, size, err, b.Size())
		}
	})
}

func TestOwnDAGIsUploadedAgainWhateverIsLeftOfTheQuota(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("d", 20)
		quota := pins.Quota{Bytes: d.Size() + 1}
		upload := func(account pins.Account, d pinstest.DAG) error {
			_, _, err := w.Upload(t.Context(), ingest.Upload{
				Account: account, Format: ingest.CAR, Body: bytes.NewReader(carOf(t, []cid.Cid{d.Root}, d.Blocks...)),
				Admit: func(dags []pins.Sized) error {
					refused, _, err := w.pins.Fits(t.Context(), account, quota, dags, "")
					return errors.Join(append(refused, err)...)
				},
			})
			return err
		}
		for range 2 {
			if err := upload(1, d); err != nil {
				t.Fatal(err)
			}
		}
		var over *pins.QuotaError
		if err := upload(1, pinstest.Tree("other", 20)); !errors.As(err, &over) {
			t.Errorf("another DAG: %v", err)
		}
		if n := w.count(t); n != 2 {
			t.Errorf("%d pins, want 2", n)
		}
	})
}

// until waits for what the scheduler brings about.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (w *world) held(t *testing.T, root cid.Cid) bool {
	t.Helper()
	held, err := w.tier.Held(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// The tier of these tests is one that others use too.
func TestRefusedUploadLeavesNothingHeldButWhatOthersHold(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		refused, theirs, failed, pinned := pinstest.Tree("refused", 5), pinstest.Tree("theirs", 5), pinstest.Tree("failed", 5), pinstest.Tree("pinned", 5)
		upload := func(dags ...pinstest.DAG) error {
			var roots []cid.Cid
			var list []blocks.Block
			for _, d := range dags {
				roots, list = append(roots, d.Root), append(list, d.Blocks...)
			}
			_, _, err := w.Upload(t.Context(), ingest.Upload{
				Account: 1, Format: ingest.CAR, Body: bytes.NewReader(carOf(t, roots, list...)),
				Admit: func([]pins.Sized) error {
					for _, root := range roots {
						if !w.held(t, root) {
							t.Errorf("%s is not held", root)
						}
					}
					return errListed
				},
			})
			return err
		}
		w.tier.AddPin(theirs.Root) // before a collection sees it
		w.tier.AddLocal(theirs.Blocks...)
		w.tier.AddNetwork(pinned.Blocks...)
		w.tier.FailHold(failed.Root, &pins.Refused{Reason: "it is too deep"})
		w.tier.AddNetwork(failed.Blocks...)
		for _, d := range []pinstest.DAG{failed, pinned} {
			r, err := spec.DecodePin([]byte(`{"cid":"` + d.Root.String() + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			p, err := w.pins.Add(t.Context(), 2, r, pins.Decision{Terms: pins.Uncopied})
			if err != nil {
				t.Fatal(err)
			}
			until(t, "a pin has ended", func() bool {
				p, err = w.pins.Get(t.Context(), 2, p.ID)
				return err == nil && (p.Status() == spec.Failed || p.Status() == spec.Pinned)
			})
		}
		w.tier.FailHold(failed.Root, nil)

		if err := upload(refused, theirs, failed, pinned); !errors.Is(err, errListed) {
			t.Fatal(err)
		}
		for _, d := range []pinstest.DAG{refused, failed} {
			until(t, "what was refused is let go", func() bool { return !w.held(t, d.Root) })
		}
		until(t, "it is collected", func() bool { return !w.tier.Has(refused.Root) })
		for _, d := range []pinstest.DAG{theirs, pinned} {
			if !w.held(t, d.Root) {
				t.Error("what others hold is gone")
			}
		}
	})
}

func TestRefusedUploadTakesNothingFromAnother(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("d", 5)
		upload := func(admit func([]pins.Sized) error) ([]pins.Pin, error) {
			made, _, err := w.Upload(t.Context(), ingest.Upload{
				Account: 1, Format: ingest.CAR, Body: bytes.NewReader(carOf(t, []cid.Cid{d.Root}, d.Blocks...)), Admit: admit,
			})
			return made, err
		}
		made, err := upload(func([]pins.Sized) error { // while it is held and has no pin
			if _, err := upload(func([]pins.Sized) error { return errListed }); !errors.Is(err, errListed) {
				t.Error(err)
			}
			return nil
		})
		if err != nil || len(made) != 1 || made[0].Status() != spec.Pinned || !w.held(t, d.Root) {
			t.Fatalf("%v, %v", made, err)
		}
		if err := w.pins.Delete(t.Context(), 1, made[0].ID); err != nil {
			t.Fatal(err)
		}
		until(t, "it is let go", func() bool { return !w.held(t, d.Root) })
	})
}

// What an upload has stored is nobody's yet, and the collector may come at any moment.
func TestCollectorTakesNothingFromAnUpload(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		d := pinstest.Tree("d", 400)
		body := bytes.NewReader(carOf(t, []cid.Cid{d.Root}, d.Blocks...))
		collecting := readerFunc(func(p []byte) (int, error) {
			if _, err := w.tier.Collect(context.Background(), nil); err != nil {
				return 0, err
			}
			return body.Read(p)
		})
		if _, _, err := w.Upload(t.Context(), ingest.Upload{Account: 1, Format: ingest.CAR, Body: collecting}); err != nil {
			t.Fatal(err)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Nodes change after they were given away, which is easily overlooked where one is stored later.
func TestEmptyDirectoryIsThatOfKubo(t *testing.T) {
	const empty = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"
	for _, name := range []string{"d/", "./"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}), w.Close()); err != nil {
			t.Fatal(err)
		}
		made, _, err := ingest.New(pinstest.NewTier(), recorder{}, limits).Upload(t.Context(), ingest.Upload{Format: ingest.Tar, Body: &b})
		if err != nil || made[0].CID != empty {
			t.Errorf("%s became %v, %v; want %s", name, made, err, empty)
		}
	}
}
