package e2e_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// An abuse report is acted on: within seconds a pinned CID is read by nobody, its pin has failed, and its bytes are gone.
// When the block is taken back, the next try works.
func TestBlockedContentIsGoneEverywhere(t *testing.T) {
	t.Parallel()
	s := startServer(t, "FROSTPIN_GC_INTERVAL=1s")
	admin := newAPI(t, s.root+"/api/v1", s.must("token", "create", "--account", "default", "--label", "desk", "--scopes", "admin"))
	own := newAPI(t, s.root+"/api/v1", s.token)
	content := []byte("what somebody has reported")
	upload := func() (code int, p pinStatus) {
		t.Helper()
		code, body := own.raw(http.MethodPost, "/upload", content)
		var made struct{ Pins []pinStatus }
		if err := json.Unmarshal([]byte(body), &made); err == nil && len(made.Pins) == 1 {
			p = made.Pins[0]
		}
		return code, p
	}
	_, p := upload()
	path := "/ipfs/" + p.Pin.CID
	if got := s.read(path); p.Status != "pinned" || got.code != http.StatusOK || string(got.body) != string(content) {
		t.Fatalf("%+v is read as %d %s", p, got.code, got.body)
	}
	root, err := cid.Decode(p.Pin.CID)
	if err != nil {
		t.Fatal(err)
	}
	spelled := cid.NewCidV1(cid.DagCBOR, root.Hash()).String()

	report := `{"cid":"` + spelled + `","reason":"report 7"}`
	if code, body := own.raw(http.MethodPost, "/admin/blocks", []byte(report)); code != http.StatusForbidden {
		t.Errorf("without the scope: %d %s", code, body)
	}
	if code, body := admin.raw(http.MethodPost, "/admin/blocks", []byte(report)); code != http.StatusCreated {
		t.Fatalf("blocking: %d %s", code, body)
	}
	api := s.api()
	failed := api.ends(p.ID, "failed")
	if !strings.Contains(failed.Info["status_details"], "the operator of this service has blocked this content") {
		t.Errorf("the pin says %q", failed.Info["status_details"])
	}
	for _, c := range []string{p.Pin.CID, spelled, cid.NewCidV0(root.Hash()).String()} {
		if got := s.read("/ipfs/" + c); got.code != http.StatusGone {
			t.Errorf("%s is read as %d %s", c, got.code, got.body)
		}
		api.want(http.StatusGone, http.MethodPost, "/pins", nil, pin{CID: c}, nil)
	}
	if code, _ := upload(); code != http.StatusGone {
		t.Errorf("sent again: %d", code)
	}
	if list := s.must("block", "list"); !strings.Contains(list, spelled) || !strings.Contains(list, "report 7") {
		t.Errorf("the list:\n%s", list)
	}
	within(t, patience, "its bytes are removed", func() (bool, any) {
		log := s.proc.stderr.String()
		return regexp.MustCompile(`blocks collected" removed=[1-9]`).MatchString(log), log
	})
	within(t, patience, "its account is told", func() (bool, any) {
		_, body := own.raw(http.MethodGet, "/events?limit=100", nil)
		return strings.Contains(body, `"pin.failed"`), body
	})
	s.proc.kill()
	s.start() // it has no bytes in memory either
	if got := s.read(path); got.code != http.StatusGone {
		t.Errorf("after a start it is read as %d", got.code)
	}

	s.must("block", "remove", p.Pin.CID)
	within(t, patience, "the block is taken back", func() (bool, any) {
		got := s.read(path)
		return got.code != http.StatusGone, got.code
	})
	if got := s.read(path); got.code == http.StatusOK {
		t.Error("its bytes were still here")
	}
	if got := api.get(p.ID); got.Status != "failed" {
		t.Errorf("the pin is %s before anybody asks for it", got.Status)
	}
	if code, again := upload(); again.Status != "pinned" {
		t.Fatalf("sent again: %d %+v", code, again)
	}
	if got := s.read(path); string(got.body) != string(content) {
		t.Errorf("read again: %d %s", got.code, got.body)
	}
	api.ends(p.ID, "pinned")
	api.want(http.StatusAccepted, http.MethodDelete, "/pins/"+p.ID, nil, nil, nil)
}

func TestWhatIsOnADenylistCannotBeUploaded(t *testing.T) {
	t.Parallel()
	content := []byte("what others have listed")
	hash, err := multihash.Sum(content, multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "list.deny")
	if err := os.WriteFile(list, []byte("/ipfs/"+cid.NewCidV1(cid.Raw, hash).String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, "FROSTPIN_DENYLISTS="+list)
	own := newAPI(t, s.root+"/api/v1", s.token)
	if code, body := own.raw(http.MethodPost, "/upload", content); code != http.StatusGone && code != http.StatusUnavailableForLegalReasons {
		t.Errorf("%d %s", code, body)
	}
	if code, body := own.raw(http.MethodPost, "/upload", []byte("something else")); code != http.StatusAccepted {
		t.Errorf("what is not listed: %d %s", code, body)
	}
}
