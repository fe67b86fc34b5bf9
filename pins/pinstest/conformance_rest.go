package pinstest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"

	"github.com/frostpin/frostpin/pins"
)

// Kubo's collector waits for every pin that runs, and every new pin waits for the collector (H2, H3).
func collectDuringFetch(t *testing.T, r *rig) {
	stuck := Tree("stuck", 10)
	missing := stuck.Blocks[len(stuck.Blocks)-1]
	r.Provide(stuck.Blocks[:len(stuck.Blocks)-1]...)
	var p pins.Progress
	holding := start(func() error { return r.Tier.Hold(r.ctx, stuck.Root, pins.Limits{}, &p) })
	r.until("all but one block have arrived", func() bool { n, _ := p.Totals(); return n == 10 })

	var removed int64
	collected := start(func() (err error) { removed, err = r.Tier.Collect(r.ctx, nil); return err })
	for i := range 5 {
		local := r.provided(Leaf("meanwhile " + string(rune('a'+i))))
		r.hold(local.Root)
	}
	begun := time.Now()
	if err := r.wait(collected, "the collection"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the collection took %s", took)
	}
	if r.KeepsUnfinished && removed != 0 {
		t.Errorf("the collection removed %d blocks of running holds", removed)
	}
	r.hold(r.provided(Leaf("afterwards")).Root)
	select {
	case err := <-holding:
		t.Fatalf("the collection ended a running hold: %v", err)
	default:
	}
	r.Provide(missing)
	if err := r.wait(holding, "the hold that was stuck"); err != nil {
		t.Fatal(err)
	}
	r.held(stuck.Root, true)
	r.Silence(true)
	r.collect()
	if !r.present(stuck.Root) {
		t.Error("a DAG that was fetched across a collection is not whole")
	}
}

func collectKeeps(t *testing.T, r *rig) {
	if !r.KeepsUnfinished {
		return // the node cannot be told
	}
	d := Tree("unfinished", 20)
	r.Provide(d.Blocks[:len(d.Blocks)-1]...)
	limits := pins.Limits{Idle: 500 * time.Millisecond, Stall: 2 * time.Second}
	if err := r.Tier.Hold(r.ctx, d.Root, limits, nil); !errors.Is(err, pins.ErrStalled) {
		t.Fatal(err)
	}
	r.Silence(true)
	before := r.collect(d.Root, Leaf("not here").Root)
	if before != 0 {
		t.Errorf("the collector removed %d blocks of a DAG that it was told to keep", before)
	}
	if removed := r.collect(); removed != int64(len(d.Blocks))-1 {
		t.Errorf("without a word the collector removed %d blocks of %d", removed, len(d.Blocks)-1)
	}
}

func identityRoot(t *testing.T, r *rig) {
	root := Identity(cid.Raw, []byte("inline"))
	if err := r.Tier.Hold(r.ctx, root, pins.Limits{Offline: true}, nil); err != nil {
		t.Fatal(err)
	}
	r.held(root, true)
	r.collect()
	r.release(root)
	r.held(root, false)
}

func findReports(t *testing.T, r *rig) {
	here, there, later := r.provided(Leaf("here")), r.provided(Leaf("there")), Leaf("later")
	r.hold(here.Root)
	roots := []cid.Cid{here.Root, there.Root, later.Root, Identity(cid.Raw, []byte("x"))}
	for i := len(roots); i < pins.MaxFind; i++ { // unfindable ones must not hold it back (H5)
		roots = append(roots, Leaf("nowhere "+string(rune('A'+i))).Root)
	}
	ctx, cancel := context.WithCancelCause(r.ctx)
	var mu sync.Mutex
	got := make(map[cid.Cid]int)
	answer := start(func() error {
		return r.Tier.Find(ctx, roots, func(c cid.Cid) {
			mu.Lock()
			defer mu.Unlock()
			got[c]++
		})
	})
	found := func(c cid.Cid) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return got[c] == 1 }
	}
	r.until("what is here is found", found(here.Root))
	r.until("an identity CID is found", found(roots[3]))
	r.until("what a peer has is found", found(there.Root))
	r.Provide(later.Blocks...)
	r.until("what a peer gets later is found", found(later.Root))
	why := errors.New("enough")
	cancel(why)
	if err := r.wait(answer, "a cancelled find"); !errors.Is(err, why) {
		t.Errorf("a cancelled find returned %v", err)
	}
	if len(got) != 4 {
		t.Errorf("%d roots were found, want 4", len(got))
	}
	r.Silence(true)
	if !r.present(later.Root) {
		t.Error("what was found is not stored")
	}
	r.Silence(false)
	if err := r.Tier.Find(r.ctx, []cid.Cid{here.Root, later.Root}, func(cid.Cid) {}); err != nil {
		t.Errorf("everything here: %v", err)
	}
	// Nobody may hold up the others with a root that no node takes; Hold tells its user why.
	never := Block(cid.Raw, multihash.MURMUR3X64_64, []byte("weak")).Cid()
	handed := 0
	if err := r.Tier.Find(r.ctx, []cid.Cid{never, later.Root}, func(cid.Cid) { handed++ }); err != nil || handed != 2 {
		t.Errorf("with a root that can never be held: %v, %d of 2 handed on", err, handed)
	}
	if err := r.Tier.Find(r.ctx, make([]cid.Cid, pins.MaxFind+1), func(cid.Cid) {}); err == nil {
		t.Error("a find of too many roots was let through")
	}
}

func rootsLists(t *testing.T, r *rig) {
	var want []string
	for _, seed := range []string{"one", "two", "three"} {
		d := r.provided(Leaf("listed " + seed))
		r.hold(d.Root)
		want = append(want, d.Root.String())
	}
	gone := r.provided(Leaf("unlisted"))
	r.hold(gone.Root)
	r.release(gone.Root)
	var got []string
	if err := r.Tier.Roots(r.ctx, func(c cid.Cid) error { got = append(got, c.String()); return nil }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roots (-want +got):\n%s", diff)
	}
	enough := errors.New("enough")
	if err := r.Tier.Roots(r.ctx, func(cid.Cid) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the error of yield became %v", err)
	}
}

func delegatesDialable(t *testing.T, r *rig) {
	got, err := r.Tier.Delegates(r.ctx)
	if err != nil || len(got) < 1 || len(got) > 20 {
		t.Fatalf("Delegates() = %q, %v", got, err)
	}
	for i, s := range got {
		addr, err := ma.NewMultiaddr(s)
		if err != nil {
			t.Errorf("delegate %q: %v", s, err)
			continue
		}
		info, err := peer.AddrInfoFromP2pAddr(addr)
		if err != nil || !strings.HasSuffix(s, "/p2p/"+info.ID.String()) {
			t.Errorf("delegate %q does not end in the node's id: %v", s, err)
		}
		if slices.Contains(got[:i], s) {
			t.Errorf("delegate %q appears twice", s)
		}
	}
}

func badOrigins(t *testing.T, r *rig) {
	id := r.Peer.ID
	begun := time.Now()
	release := r.Tier.Connect(r.ctx, []peer.AddrInfo{
		{},
		{ID: id},
		{ID: id, Addrs: []ma.Multiaddr{nil, ma.StringCast("/unix/tmp"), ma.StringCast("/ip4/127.0.0.1/tcp/1")}},
		{ID: "nonsense", Addrs: []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/tcp/2")}},
		r.Peer,
	})
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("connecting took %s", took)
	}
	r.hold(r.provided(Tree("from an origin", 3)).Root)
	release()
	release()
	if release := r.Tier.Connect(r.ctx, nil); release == nil {
		t.Error("Connect returned nil")
	} else {
		release()
	}
}

func announceHarmless(t *testing.T, r *rig) {
	d := r.provided(Leaf("announced"))
	r.hold(d.Root)
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	if err := r.Tier.Announce(ctx, d.Root); err != nil {
		t.Logf("announcing without anyone to tell: %v", err)
	}
	r.held(d.Root, true)
}

func usageGrows(t *testing.T, r *rig) {
	before, err := r.Tier.Usage(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.hold(r.provided(Tree("room", 2000)).Root)
	after, err := r.Tier.Usage(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if before.Free < -1 || after.Bytes <= before.Bytes {
		t.Errorf("usage went from %+v to %+v with 2 MB more", before, after)
	}
}

func closeEnds(t *testing.T, r *rig) {
	d := Tree("never", 2)
	r.Provide(d.Blocks[0])
	var p pins.Progress
	holding := start(func() error { return r.Tier.Hold(r.ctx, d.Root, pins.Limits{}, &p) })
	finding := start(func() error {
		return r.Tier.Find(r.ctx, []cid.Cid{Leaf("nowhere").Root}, func(cid.Cid) {})
	})
	r.until("the root has arrived", func() bool { n, _ := p.Totals(); return n == 1 })
	told, err := r.Tier.Delegates(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Tier.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	if err := r.wait(holding, "a hold on a closed tier"); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("a running hold ended with %v", err)
	}
	if err := r.wait(finding, "a find on a closed tier"); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("a running find ended with %v", err)
	}
	if _, err := r.Tier.Held(r.ctx, d.Root); !errors.Is(err, pins.ErrUnavailable) {
		t.Errorf("a closed tier answered %v", err)
	}
	if again, err := r.Tier.Delegates(r.ctx); err != nil || !cmp.Equal(told, again) {
		t.Errorf("the delegates of a closed tier are %q, %v; want the last ones %q", again, err, told)
	}
	if err := r.Tier.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}
