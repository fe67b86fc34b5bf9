package e2e_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func TestKuboAcceptsTheLineThatServePrints(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	line := s.proc.await(`(?m)ipfs (pin remote service add frostpin \S+ \S+)$`)[1]
	n.must(strings.Fields(line)...)
	out := n.must("pin", "remote", "service", "ls", "--stat")
	if !containsAll(out, "frostpin", s.endpoint, " 0/0/0/0") {
		t.Errorf("service ls --stat printed %q; want 0/0/0/0 for %s", out, s.endpoint)
	}
}

func TestKuboTellsAValidServiceFromAnInvalidOne(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	for name, add := range map[string][2]string{
		"valid":      {s.endpoint, s.token},
		"slash":      {s.endpoint + "/", s.token},
		"wrong-path": {s.endpoint + "/invalidpath", s.token},
		"no-path":    {s.root, s.token},
		"wrong-key":  {s.endpoint, "not-a-token"},
	} {
		n.must("pin", "remote", "service", "add", name, add[0], add[1])
	}
	var out struct {
		RemoteServices []struct {
			Service string
			Stat    struct{ Status string }
		}
	}
	if err := json.Unmarshal([]byte(n.must("pin", "remote", "service", "ls", "--stat", "--enc=json")), &out); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, service := range out.RemoteServices {
		got[service.Service] = service.Stat.Status
	}
	want := map[string]string{"valid": "valid", "slash": "valid", "wrong-path": "invalid", "no-path": "invalid", "wrong-key": "invalid"}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("service %s is %q; want %q", name, got[name], want[name])
		}
	}
}

func TestKuboShowsTheServersReason(t *testing.T) {
	s := startServer(t)
	n := startIPFS(t)
	n.use(s)
	n.must("pin", "remote", "service", "add", "wrong-key", s.endpoint, "not-a-token")
	n.must("pin", "remote", "service", "add", "wrong-path", s.endpoint+"/invalid-path", s.token)
	held := n.addText("a text")
	key := cid.NewCidV1(cid.Libp2pKey, sum(noise(32), multihash.SHA2_256).Hash()).String()

	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"ls", "--service=wrong-key"}, []string{"UNAUTHORIZED", "access denied", "401"}},
		{[]string{"add", "--service=wrong-key", held}, []string{"UNAUTHORIZED", "access denied", "401"}},
		{[]string{"rm", "--service=wrong-key", "--cid=" + held}, []string{"UNAUTHORIZED", "access denied", "401"}},
		{[]string{"ls", "--service=wrong-path"}, []string{"NOT_FOUND", "404"}},
		{[]string{"add", "--service=wrong-path", held}, []string{"NOT_FOUND", "404"}},
		{[]string{"add", "--service=frostpin", key}, []string{"BAD_REQUEST", "cid", "400"}},
	} {
		seen := n.fails(append([]string{"pin", "remote"}, test.args...)...)
		if !containsAll(seen, test.want...) {
			t.Errorf("ipfs pin remote %v says %q; want %q in it", test.args, seen, test.want)
		}
	}
}

func TestKuboSaysThatAStoppedServiceIsDown(t *testing.T) {
	s := startServer(t)
	n := newIPFS(t)
	n.use(s)
	s.proc.kill()
	if seen := n.fails("pin", "remote", "ls", "--service=frostpin"); !strings.Contains(seen, "connection refused") {
		t.Errorf("ipfs pin remote ls says %q", seen)
	}
	if got := n.must("pin", "remote", "service", "ls", "--stat"); !strings.Contains(got, "invalid") {
		t.Errorf("service ls --stat printed %q; want invalid", got)
	}
}
