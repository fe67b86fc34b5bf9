package e2e_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A gallery is a server with pins in every state, and the Kubo that made them.
type gallery struct {
	*server
	node *ipfsNode
	want map[string]listed // by name
}

// newGallery makes one pin in each state: held, being fetched, looked for, and too large.
func newGallery(t *testing.T) *gallery {
	t.Helper()
	g := &gallery{server: startServer(t, "FROSTPIN_MAX_DAG_BLOCKS=20"), node: startIPFS(t), want: map[string]listed{}}
	g.node.use(g.server)
	hollow, _ := g.node.hollow()
	for status, root := range map[string]string{
		"pinned":  g.node.addText("held"),
		"pinning": hollow,
		"queued":  unfindable(),
		"failed":  g.node.add(directory(t, 100)),
	} {
		g.node.pin("add", "--background", "--name="+status, root)
		g.want[status] = listed{status, root, status}
	}
	eventually(t, "there is a pin in every state", func() (bool, any) {
		got := g.listed()
		return cmp.Equal(g.want, got), got
	})
	return g
}

func (g *gallery) listed(filters ...string) map[string]listed {
	g.t.Helper()
	got := map[string]listed{}
	for _, l := range g.node.pins(append(filters, "--status="+allStatuses)...) {
		got[l.Name] = l
	}
	return got
}

func TestKuboListsAndCountsPinsInEveryStatus(t *testing.T) {
	g := newGallery(t)
	for status, want := range g.want {
		if diff := cmp.Diff([]listed{want}, g.node.pins("--status="+status)); diff != "" {
			t.Errorf("--status=%s (-want +got):\n%s", status, diff)
		}
	}
	if diff := cmp.Diff([]listed{g.want["pinned"]}, g.node.pins()); diff != "" {
		t.Errorf("without --status (-want +got):\n%s", diff)
	}
	if got := g.node.must("pin", "remote", "service", "ls", "--stat"); !containsAll(got, "frostpin", " 1/1/1/1") {
		t.Errorf("service ls --stat printed %q; want 1/1/1/1", got)
	}
}

func TestKuboListsEveryPage(t *testing.T) {
	g := newGallery(t)
	sizes := []int{12, 1203}
	if long() {
		sizes = append(sizes, 3010)
	}
	for _, size := range sizes {
		g.grow(size)
		got := g.node.pins("--status=" + allStatuses)
		seen := map[string]listed{}
		for _, l := range got {
			seen[l.Name] = l
		}
		if len(got) != size {
			t.Errorf("%d pins: %d lines", size, len(got))
		}
		if diff := cmp.Diff(g.want, seen); diff != "" {
			t.Fatalf("%d pins (-want +got):\n%s", size, diff)
		}
	}
}

// grow adds pins, several at a time, until there are size of them; all in the states that stay as they are.
func (g *gallery) grow(size int) {
	g.t.Helper()
	api := g.api()
	var group sync.WaitGroup
	defer group.Wait()
	room := make(chan struct{}, 16)
	for i := len(g.want); i < size; i++ {
		name := fmt.Sprintf("pin-%d", i)
		c, status := identity(name), "pinned"
		if i%3 == 0 {
			c, status = unfindable(), "queued"
		}
		g.want[name] = listed{status, c, name}
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			code, err := api.call(g.t.Context(), http.MethodPost, "/pins", nil, pin{CID: c, Name: name}, nil)
			if err != nil || code != http.StatusAccepted {
				g.t.Errorf("adding %s: code %d, error %v", name, code, err)
			}
		})
	}
}

func TestKuboFindsAPinByEitherSpellingOfItsCID(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	n.use(s)
	for _, version := range []uint64{0, 1} {
		root := spelled(t, n.add(directory(t, 3)), version)
		name := fmt.Sprintf("v%d", version)
		n.pin("add", "--name="+name, root)
		want := []listed{{"pinned", root, name}}
		for _, asked := range []uint64{0, 1} {
			if diff := cmp.Diff(want, n.pins("--cid="+spelled(t, root, asked))); diff != "" {
				t.Errorf("pinned in version %d, looked for in version %d (-want +got):\n%s", version, asked, diff)
			}
		}
	}
	if got := n.pins("--cid=" + unfindable()); len(got) != 0 {
		t.Errorf("a CID that was never pinned lists %v", got)
	}
}

func TestKuboFiltersByNameExactly(t *testing.T) {
	s := startServer(t)
	n := newIPFS(t)
	n.use(s)
	names := []string{"report", "Report", "report ", "report%", "report_1", "über/日本 & more?"}
	for _, name := range names {
		s.api().add(pin{CID: identity(name), Name: name})
	}
	for _, name := range names {
		want := []listed{{"pinned", identity(name), name}}
		if diff := cmp.Diff(want, n.pins("--name="+name)); diff != "" {
			t.Errorf("--name=%q (-want +got):\n%s", name, diff)
		}
	}
}
