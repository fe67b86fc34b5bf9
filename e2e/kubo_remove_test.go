package e2e_test

import (
	"strings"
	"testing"
)

func containsAll(text string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func TestKuboPinsTheSameNameAndCIDTwice(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	n.use(s)
	root := n.addText("twice")
	n.pin("add", "--name=pair", root)
	n.pin("add", "--name=pair", root)

	got := n.pins("--name=pair")
	if len(got) != 2 || got[0] != got[1] {
		t.Fatalf("listed %v; want the same line twice", got)
	}

	// Two match, so nothing may go without --force.
	seen := n.fails("pin", "remote", "rm", "--service=frostpin", "--name=pair")
	if !strings.Contains(seen, "multiple remote pins are matching this query, add --force") {
		t.Errorf("ipfs pin remote rm says %q", seen)
	}
	if got := n.pins("--name=pair"); len(got) != 2 {
		t.Fatalf("after the refused removal %v are left; want two", got)
	}

	n.pin("rm", "--name=pair", "--force")
	if got := n.pins("--name=pair", "--status="+allStatuses); len(got) != 0 {
		t.Errorf("after rm --force %v are left", got)
	}
}

func TestKuboRemovesOnePinAndKeepsTheOther(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	author.use(s)
	root := author.add(directory(t, 10))
	blocks := author.refs(root)
	author.pin("add", "--name=one", root)
	author.pin("add", "--name=two", root)
	delegates := s.api().list(nil).Results[0].Delegates

	author.pin("rm", "--name=one")
	got := author.pins()
	if len(got) != 1 || got[0].Name != "two" || got[0].Status != "pinned" {
		t.Fatalf("left are %v; want the pin two", got)
	}
	author.stop()
	reader := startIPFS(t)
	connect(t, reader, delegates)
	if got := reader.refs(root); len(got) != len(blocks) {
		t.Errorf("%d of %d blocks are still held", len(got), len(blocks))
	}
}

func TestKuboRemovesByCIDAndByStatus(t *testing.T) {
	g := newGallery(t)
	n := g.node
	n.pin("rm", "--cid="+g.want["pinned"].Cid)
	if got := n.pins(); len(got) != 0 {
		t.Errorf("pinned after rm --cid: %v", got)
	}
	// Without --status Kubo matches only what is pinned, so the others are still there.
	if got := n.pins("--status=queued,pinning,failed"); len(got) != 3 {
		t.Errorf("left are %v; want the three that are not pinned", got)
	}
	n.pin("rm", "--status=pinning")
	n.pin("rm", "--status=queued,failed", "--force")
	if got := n.pins("--status=" + allStatuses); len(got) != 0 {
		t.Errorf("left are %v; want none", got)
	}
}

func TestKuboRemovesMoreThanAPage(t *testing.T) {
	g := newGallery(t)
	g.grow(45)
	g.node.pin("rm", "--status="+allStatuses, "--force")
	if got := g.api().total(allStatuses); got != 0 {
		t.Errorf("%d pins are left; want none", got)
	}
	if got := g.node.must("pin", "remote", "service", "ls", "--stat"); !strings.Contains(got, " 0/0/0/0") {
		t.Errorf("service ls --stat printed %q; want 0/0/0/0", got)
	}
}
