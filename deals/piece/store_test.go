package piece_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/deals/piece"
)

// files returns the names in a directory.
func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func noFiles(t testing.TB, dir string) {
	t.Helper()
	if names := files(t, dir); len(names) > 0 {
		t.Errorf("left in the directory: %q", names)
	}
}

func TestWhatACrashLeavesIsCleaned(t *testing.T) {
	dir := t.TempDir()
	m := newMemory()
	root := m.tree("kept", 5, 1, 10)
	p := build(t, openStore(t, dir, 0), m, root)
	kept := files(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "12345.temp"), []byte("half a layout"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir, 0)
	if got := files(t, dir); len(got) != 1 || got[0] != kept[0] {
		t.Errorf("after a restart the directory holds %q, want %q", got, kept)
	}
	before := m.asked.Load()
	r := open(t, s, m, root, p.RawSize)
	if m.asked.Load() != before {
		t.Error("a layout that survived the restart was made again")
	}
	if got := readAll(t, r); !bytes.Equal(got, reference(t, m, root)) {
		t.Error("the layout that survived the restart is another")
	}
}

func TestRoomIsBoundedAndTheLeastUsedGoes(t *testing.T) {
	dir := t.TempDir()
	m := newMemory()
	roots := make([]cid.Cid, 6)
	for i := range roots {
		roots[i] = m.tree(fmt.Sprint("root ", i), 40, 1, 10)
	}
	build(t, openStore(t, dir, 0), m, roots[0])
	info, err := os.Stat(filepath.Join(dir, files(t, dir)[0]))
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, dir, 3*info.Size())
	there := func(c cid.Cid) bool {
		_, err := os.Stat(filepath.Join(dir, c.String()+".layout"))
		return err == nil
	}
	build(t, s, m, roots[1])
	build(t, s, m, roots[2])
	open(t, s, m, roots[0], 1<<20) // used: 1 is the oldest now
	build(t, s, m, roots[3])
	if !there(roots[0]) || there(roots[1]) || !there(roots[2]) || !there(roots[3]) {
		t.Errorf("kept %q; want 0, 2 and 3 of %v", files(t, dir), roots)
	}
	build(t, s, m, roots[3]) // again takes no more room
	if !there(roots[2]) || !there(roots[0]) {
		t.Error("building again took room")
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, roots[2].String()+".layout"), later, later); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, info.Size())
	if got := files(t, dir); len(got) != 1 || !there(roots[2]) {
		t.Errorf("after a restart with less room it holds %q, want what was used last", got)
	}
	s = openStore(t, dir, 1)
	build(t, s, m, roots[4])
	if !there(roots[4]) || len(files(t, dir)) != 1 {
		t.Errorf("a layout larger than all room is not kept alone: %q", files(t, dir))
	}
}

func TestLayoutThatWasRemovedIsMadeAgainOnce(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 0)
	m := newMemory()
	root := m.tree("again", 30, 2, 100)
	p := build(t, s, m, root)
	want := reference(t, m, root)
	old := open(t, s, m, root, p.RawSize)
	if err := s.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(root); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
	noFiles(t, dir)
	if !bytes.Equal(readAll(t, old), want) {
		t.Error("a reader that was open does not go on")
	}

	// All wait for one walk, and the one who came first may leave.
	gate := make(chan struct{})
	var roots atomic.Int64
	m.before = func(ctx context.Context, c cid.Cid) error {
		if c == root {
			roots.Add(1)
		}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	why := errors.New("the first has left")
	first, leave := context.WithCancelCause(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Open(first, m, root, p.RawSize)
		left <- err
	}()
	poll(t, func() bool { return roots.Load() == 1 })
	var waiting, opened sync.WaitGroup
	for range 5 {
		waiting.Add(1)
		opened.Go(func() {
			waiting.Done()
			r, err := s.Open(t.Context(), m, root, p.RawSize)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	waiting.Wait()
	poll(t, func() bool { return piece.Waiting(s) == 6 })
	leave(why)
	if err := <-left; !errors.Is(err, why) {
		t.Errorf("who left got %v", err)
	}
	close(gate)
	opened.Wait()
	if n := roots.Load(); n != 1+5 { // one walk, and the readers
		t.Errorf("the root was read %d times, want once by a walk and once by each of 5 readers", n)
	}
}

// leftAlone opens a piece whose walk hangs until ctx ends or the gate is open, and leaves.
func leftAlone(t *testing.T, s *piece.Store, m *memory, root cid.Cid, gate <-chan struct{}) (ended <-chan error) {
	t.Helper()
	asked, over := make(chan struct{}, 10), make(chan error, 1)
	var once sync.Once
	m.before = func(ctx context.Context, _ cid.Cid) error {
		asked <- struct{}{}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			once.Do(func() { over <- context.Cause(ctx) })
			return context.Cause(ctx)
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.Open(ctx, m, root, 1<<20)
		left <- err
	}()
	<-asked
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	return over
}

// TestWalkGoesOnForThoseWhoComeAgain: a provider waits for half a minute, and the walk may take longer.
func TestWalkGoesOnForThoseWhoComeAgain(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	root := m.tree("comes again", 1, 1, 10)
	gate := make(chan struct{})
	leftAlone(t, s, m, root, gate)
	again := make(chan error, 1)
	go func() { again <- s.Ensure(t.Context(), m, root) }()
	poll(t, func() bool { return piece.Waiting(s) == 1 })
	blocks := m.asked.Load()
	close(gate)
	if err := <-again; err != nil {
		t.Fatal(err)
	}
	if n := m.asked.Load(); blocks != 1 || n > 2 {
		t.Errorf("%d blocks were read, %d of them before: it was begun again", n, blocks)
	}
}

func TestWalkThatNobodyComesBackForEnds(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 0)
	piece.SetLinger(s, time.Millisecond)
	m := newMemory()
	root := m.tree("left alone", 3, 1, 10)
	if err := <-leftAlone(t, s, m, root, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended because of %v", err)
	}
	poll(t, func() bool { return len(files(t, dir)) == 0 })
	m.before = nil
	open(t, s, m, root, 1<<20) // and the next one is not told of that cancellation
}

func TestCloseEndsWalksThatNobodyWaitsFor(t *testing.T) {
	s, err := piece.OpenStore(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	root := m.tree("closed", 3, 1, 10)
	ended := leftAlone(t, s, m, root, nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	default:
		t.Error("the walk goes on")
	}
	if err := s.Ensure(t.Context(), m, root); err == nil {
		t.Error("another one has begun")
	}
}

func TestDamagedLayoutIsNeverBelieved(t *testing.T) {
	dir := t.TempDir()
	m := newMemory()
	root := m.tree("damaged", 25, 2, 20)
	p := build(t, openStore(t, dir, 0), m, root)
	want := reference(t, m, root)
	path := filepath.Join(dir, files(t, dir)[0])
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string][]byte{"empty": {}, "cut": good[:len(good)-1], "cut at the start": good[1:], "longer": append(bytes.Clone(good), 0)}
	for at := 30; at < len(good); at += len(good) / 40 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		damage[fmt.Sprint("byte ", at)] = bad
	}
	for name, bad := range damage {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openStore(t, dir, 0)
		// A reader may fail once, when the damage shows up in the middle; it never returns other bytes.
		for try := range 2 {
			r, err := s.Open(t.Context(), m, root, p.RawSize)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, err := io.ReadAll(r)
			r.Close()
			if !bytes.Equal(got, want[:len(got)]) || err == nil && len(got) != len(want) || err != nil && try > 0 {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
	// The layout of another DAG under this name.
	other := m.tree("other", 3, 1, 10)
	s := openStore(t, dir, 0)
	build(t, s, m, other)
	if err := os.Rename(filepath.Join(dir, other.String()+".layout"), path); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, open(t, s, m, root, p.RawSize)); !bytes.Equal(got, want) {
		t.Error("the layout of another DAG was used")
	}
}

func TestManyReadersAndBuildersShareAStore(t *testing.T) {
	s := openStore(t, t.TempDir(), 4000) // room for few: layouts come and go all the time
	m := newMemory()
	type dag struct {
		root cid.Cid
		want []byte
	}
	var dags []dag
	for i := range 5 {
		root := m.tree(fmt.Sprint("shared ", i), 10, 2, 50)
		dags = append(dags, dag{root, reference(t, m, root)})
	}
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			for j := range 20 {
				d := dags[(i+j)%len(dags)]
				if (i+j)%4 == 0 {
					if p, err := s.Build(t.Context(), m, d.root, 0); err != nil || p.CARSize != int64(len(d.want)) {
						t.Errorf("%+v, %v", p, err)
					}
					continue
				}
				r, err := s.Open(t.Context(), m, d.root, int64(len(d.want)))
				if err != nil {
					t.Error(err)
					continue
				}
				from := (i * j * 997) % len(d.want)
				_, err = r.Seek(int64(from), io.SeekStart)
				got, err2 := io.ReadAll(r)
				if err := errors.Join(err, err2, r.Close()); err != nil || !bytes.Equal(got, d.want[from:]) {
					t.Errorf("from %d: %d bytes, %v", from, len(got), err)
				}
			}
		})
	}
	all.Wait()
}

func TestPieceSmallerThanItsCARIsRefused(t *testing.T) {
	s := openStore(t, t.TempDir(), 0)
	m := newMemory()
	root := m.tree("small", 3, 1, 100)
	p := build(t, s, m, root)
	if _, err := s.Open(t.Context(), m, root, p.CARSize-1); err == nil {
		t.Error("a CAR was cut")
	}
}

// poll waits until ok, or fails.
func poll(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain")
		}
	}
}
