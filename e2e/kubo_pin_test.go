package e2e_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKuboAddBlocksUntilTheWholeDirectoryIsHeld(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	author.use(s)
	root := author.add(directory(t, 400))
	blocks := author.refs(root)
	if len(blocks) < 300 {
		t.Fatalf("the directory has only %d blocks", len(blocks))
	}

	out := author.pin("add", "--name=holiday", root)
	for _, want := range []string{root, "holiday", "pinned"} {
		if !strings.Contains(out, want) {
			t.Errorf("ipfs pin remote add printed %q; want %q in it", out, want)
		}
	}
	got := s.api().list(url.Values{"name": {"holiday"}}).Results
	if len(got) != 1 || got[0].Status != "pinned" {
		t.Fatalf("the API shows %+v; want one pinned pin", got)
	}

	// What is pinned is held here, whole: with its author gone, a third node gets every block from the delegates.
	author.stop()
	reader := startIPFS(t)
	connect(t, reader, got[0].Delegates)
	if diff := cmp.Diff(sorted(blocks), sorted(reader.refs(root))); diff != "" {
		t.Errorf("blocks fetched from the server (-author +reader):\n%s", diff)
	}
}

func connect(t *testing.T, n *ipfsNode, delegates []string) {
	t.Helper()
	for _, d := range delegates {
		if n.run("swarm", "connect", d).code == 0 {
			return
		}
	}
	t.Fatalf("none of the delegates can be dialled: %v", delegates)
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func TestKuboAddInBackgroundAnswersWhileTheDataIsMissing(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	author.use(s)
	root, missing := author.hollow()

	out := author.pin("add", "--background", "--name=later", root)
	if !strings.Contains(out, "queued") && !strings.Contains(out, "pinning") {
		t.Fatalf("ipfs pin remote add --background printed %q", out)
	}
	eventually(t, "the pin is being fetched", func() (bool, any) {
		got := author.pins("--name=later", "--status=pinning")
		return len(got) == 1, got
	})
	if got := author.pins("--name=later"); len(got) != 0 {
		t.Fatalf("listed as pinned although a block is missing: %v", got)
	}

	author.fill(missing)
	eventually(t, "the pin is pinned", func() (bool, any) {
		got := author.pins("--name=later")
		return len(got) == 1, got
	})
}

func TestKuboIdentityPinIsPinnedAtOnce(t *testing.T) {
	s := startServer(t)
	n := newIPFS(t) // offline: there is nothing to transfer
	n.use(s)
	for _, c := range []string{"bafkqaaa", n.addText("short enough", "--inline", "--cid-version=1")} {
		if out := n.pin("add", "--background", c); !strings.Contains(out, "pinned") {
			t.Errorf("adding %s in the background printed %q; want pinned", c, out)
		}
		if out := n.pin("add", c); !strings.Contains(out, "pinned") {
			t.Errorf("adding %s printed %q; want pinned", c, out)
		}
	}
}

func TestKuboPinOfHeldDataIsPinnedAtOnce(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	author.use(s)
	root := author.add(directory(t, 20))
	author.pin("add", root)
	if out := author.pin("add", "--background", "--name=again", root); !strings.Contains(out, "pinned") {
		t.Errorf("adding held data in the background printed %q; want pinned", out)
	}
}

func TestKuboUnavailableDataWaitsAndDoesNotFail(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	n.use(s)
	c := unfindable()
	if out := n.pin("add", "--background", c); !strings.Contains(out, "queued") && !strings.Contains(out, "pinning") {
		t.Errorf("ipfs pin remote add --background printed %q; want queued or pinning", out)
	}
	got := n.pins("--cid="+c, "--status="+allStatuses)
	if len(got) != 1 || got[0].Status == "failed" || got[0].Status == "pinned" {
		t.Errorf("listed as %v; want one waiting pin", got)
	}
}

func TestKuboSeesWhyAPinCannotBeHeld(t *testing.T) {
	s := startServer(t, "FROSTPIN_MAX_DAG_BLOCKS=20")
	author := startIPFS(t)
	author.use(s)
	root := author.add(directory(t, 100))

	if seen := author.fails("pin", "remote", "add", "--service=frostpin", "--name=large", root); !strings.Contains(seen, "failed to pin") {
		t.Errorf("ipfs pin remote add says %q", seen)
	}
	if got := author.pins("--name=large", "--status=failed"); len(got) != 1 {
		t.Fatalf("failed pins: %v; want the large one", got)
	}
	got := s.api().list(url.Values{"status": {"failed"}}).Results
	if len(got) != 1 || !strings.Contains(got[0].Info["status_details"], "20") {
		t.Errorf("the API shows %+v; want a reason that names the limit of 20 blocks", got)
	}
}
