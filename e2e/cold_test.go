package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the README promises of a laptop without any Filecoin: a pin made by a stock client is pinned at once, and has
// three active deals within a minute.
func TestDevnetInOneProcessStoresThreeCopiesWithinAMinute(t *testing.T) {
	s := startServer(t, "FROSTPIN_DEVNET=true")
	user := startIPFS(t)
	user.must("pin", "remote", "service", "add", "frostpin", s.endpoint, s.token)
	root := user.unique(200_000)
	user.must("pin", "remote", "add", "--service=frostpin", "--name=laptop", root)
	page := s.api().list(map[string][]string{"cid": {root}})
	if len(page.Results) != 1 || page.Results[0].Status != "pinned" {
		t.Fatalf("after `ipfs pin remote add` the list is %+v", page)
	}
	got := s.api().stored(page.Results[0].ID, time.Minute)
	if got.Info["replicas_active"] != "3" || got.Status != "pinned" {
		t.Errorf("info %v; want 3 active replicas of a pinned pin", got.Info)
	}
}

// X copies are X deals, active on the chain, with X different providers, and no more.
func TestPinHasExactlyAsManyActiveDealsAsItAskedFor(t *testing.T) {
	d := startDevnet(t)
	s := startCold(t, d)
	author := startIPFS(t)
	user := newIPFS(t)
	user.must("pin", "remote", "service", "add", "frostpin", s.endpoint, s.token)
	want := map[string]int{}
	ids := map[string]string{}
	for _, copies := range []int{1, 2, 3} {
		p := s.api().add(pin{
			CID: author.unique(30_000 * copies), Origins: author.addresses(),
			Meta: map[string]string{"frostpin.replicas": strconv.Itoa(copies), "app": "test"},
		})
		ids[p.ID] = p.Pin.CID
		want[p.ID] = copies
	}
	policy := s.must("policy", "set", "twice", "--replicas", "2")
	if !strings.Contains(policy, "/policy/twice") {
		t.Errorf("the policy's endpoint is not told: %q", policy)
	}
	// A client that cannot send meta chooses by the endpoint.
	author.must("pin", "remote", "service", "add", "twice", s.endpoint+"/policy/twice", s.token)
	byPath := author.unique(40_000)
	author.must("pin", "remote", "add", "--service=twice", byPath)
	listed := s.api().list(map[string][]string{"cid": {byPath}})
	ids[listed.Results[0].ID] = byPath
	want[listed.Results[0].ID] = 2

	pieces := map[string]string{}
	for id, copies := range want {
		got := s.api().stored(id, patience)
		if got.Info["replication_factor"] != strconv.Itoa(copies) || got.Info["replicas_active"] != strconv.Itoa(copies) {
			t.Errorf("%d copies: info %v", copies, got.Info)
		}
		if got.Status != "pinned" {
			t.Errorf("%d copies: the pin is %s", copies, got.Status)
		}
		pieces[got.Info["piece_cid"]] = id
	}
	// It stays at that: wait for what a second round of deals would need.
	<-time.After(3 * time.Second)
	onChain := d.perPiece()
	for piece, id := range pieces {
		providers := slices.Compact(slices.Sorted(slices.Values(onChain[piece])))
		if len(onChain[piece]) != want[id] || len(providers) != want[id] {
			t.Errorf("pin %s wants %d copies; the chain has active deals with %v", id, want[id], onChain[piece])
		}
	}
	if len(d.deals()) != 1+2+3+2 {
		t.Errorf("the chain has %d deals; want 8: %s", len(d.deals()), describe(d.deals()))
	}
}

// A receipt is proof without the service: it is checked offline, against the data, and against the chain; one changed
// byte is noticed.
func TestReceiptIsCheckedWithoutTheService(t *testing.T) {
	d := startDevnet(t, "--providers", "2")
	s := startCold(t, d)
	author := startIPFS(t)
	p := s.api().add(pin{CID: author.unique(300_000), Origins: author.addresses()})
	s.api().stored(p.ID, patience)
	code, body := s.fetchAs("/api/v1/pins/" + p.ID + "/receipt")
	if code != 200 {
		t.Fatalf("receipt: %d %s", code, body)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "receipt.json")
	write := func(path string, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, []byte(body))
	car := filepath.Join(dir, "data.car")
	write(car, []byte(author.must("dag", "export", p.Pin.CID)))
	s.must("receipt", "verify", file)
	s.must("receipt", "verify", file, "--car", car, "--lotus", d.LotusURL)

	changed := strings.Replace(body, `"start_epoch":`, `"start_epoch":1`, 1)
	write(file, []byte(changed))
	if r := s.cli("receipt", "verify", file); r.code == 0 {
		t.Errorf("a changed receipt passes: %s", r.stdout)
	}
	write(file, []byte(body))
	content, err := os.ReadFile(car)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1
	write(car, content)
	if r := s.cli("receipt", "verify", file, "--car", car); r.code == 0 {
		t.Errorf("changed data passes: %s", r.stdout)
	}
}

// The deals of a pin are told to its owner, and to nobody else.
func TestDealsAreToldToTheOwnerOnly(t *testing.T) {
	d := startDevnet(t, "--providers", "1")
	s := startCold(t, d, "FROSTPIN_REPLICAS=1")
	author := startIPFS(t)
	p := s.api().add(pin{CID: author.unique(1000), Origins: author.addresses()})
	s.api().stored(p.ID, patience)
	code, body := s.fetchAs("/api/v1/pins/" + p.ID + "/deals")
	var answer struct {
		Deals []struct{ Provider, State string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 200 || len(answer.Deals) != 1 ||
		answer.Deals[0].Provider != d.Providers[0].ID || answer.Deals[0].State != "active" {
		t.Errorf("deals: %d %s (%v)", code, body, err)
	}
	s.token = s.newToken("stranger")
	for _, path := range []string{"/deals", "/receipt"} {
		if code, body := s.fetchAs("/api/v1/pins/" + p.ID + path); code != 404 || strings.Contains(body, d.Providers[0].ID) {
			t.Errorf("a stranger asking for %s gets %d %s", path, code, body)
		}
	}
}

// What cannot be kept is refused at once, with the key that is wrong.
func TestTermsThatCannotBeMetAreRefusedAtOnce(t *testing.T) {
	d := startDevnet(t, "--providers", "2")
	s := startCold(t, d)
	for key, value := range map[string]string{
		"frostpin.replicas": "3", "frostpin.regions": "MARS", "frostpin.providers": "f099", "frostpin.duration_days": "10",
		"frostpin.cold": "maybe", "frostpin.copies": "1",
	} {
		var failure struct {
			Error struct{ Reason, Details string }
		}
		code, body := s.postAs("/pins", pin{CID: unfindable(), Meta: map[string]string{key: value}})
		if err := json.Unmarshal([]byte(body), &failure); err != nil || code != 400 || !strings.Contains(failure.Error.Details, key) {
			t.Errorf("%s=%s: %d %s; want 400 that names the key", key, value, code, body)
		}
	}
	if n := s.api().total(allStatuses); n != 0 {
		t.Errorf("%d pins were made of refused requests", n)
	}
}
