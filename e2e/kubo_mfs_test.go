package e2e_test

import (
	"net/url"
	"testing"
)

// mfsRoot is the CID of what the user sees as their files.
func (n *ipfsNode) mfsRoot() string {
	n.t.Helper()
	return n.must("files", "stat", "--hash", "/")
}

func TestKuboMFSPolicyReplacesItsPin(t *testing.T) {
	s := startServer(t)
	n := newIPFS(t, "MFS_PIN_POLL_INTERVAL=50ms")
	n.use(s)
	n.configure(map[string]any{
		"Pinning.RemoteServices.frostpin.Policies.MFS": map[string]any{"Enable": true, "PinName": "", "RepinInterval": "100ms"},
	})
	n.start()
	name := "policy/" + n.must("id", "-f=<id>") + "/mfs"
	api := s.api()
	followed := func(root string) pinStatus {
		t.Helper()
		var row pinStatus
		eventually(t, "the only pin of the policy is the present root, held", func() (bool, any) {
			got := api.list(url.Values{"name": {name}, "status": {allStatuses}})
			if got.Count != 1 {
				return false, got
			}
			row = got.Results[0]
			return row.Pin.CID == root && row.Status == "pinned", row
		})
		return row
	}

	n.input("one", "files", "write", "--create", "--flush", "/one.txt")
	first := followed(n.mfsRoot())
	n.input(string(noise(1<<20)), "files", "write", "--create", "--flush", "/two.bin")
	second := followed(n.mfsRoot())
	if first.ID == second.ID {
		t.Errorf("the replaced pin kept its id %s", first.ID)
	}
	api.gone(first.ID)

	// A daemon that starts again has forgotten what it pinned, and must find it instead of pinning it again.
	n.stop()
	n.start()
	n.input("three", "files", "write", "--create", "--flush", "/three.txt")
	followed(n.mfsRoot())
	if got := api.total(allStatuses); got != 1 {
		t.Errorf("%d pins after a restart of the daemon; want one", got)
	}
}
