package e2e_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var errOther = errors.New("that is not what was pinned")

// An answer is what the gateway says to one request.
type answer struct {
	code   int
	header http.Header
	body   []byte
	err    error // of reading the body: it ended before its end
}

func (a answer) tier() string { return a.header.Get("X-Frostpin-Tier") }

// read asks the gateway as anyone may, without a token.
func (s *server) read(path string, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.root+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatalf("reading %s: %v", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

// A library is a directory that is pinned and stored cold, with the author of it gone.
type library struct {
	*server
	net  *devnet
	dir  string
	root string
	id   string
}

// newLibrary pins a directory, waits until all its copies are proven, and takes the only other node that has it away.
func newLibrary(t *testing.T, settings ...string) *library {
	t.Helper()
	d := startDevnet(t, "--providers", "3")
	s := startCold(t, d, append([]string{"FROSTPIN_REPLICAS=2"}, settings...)...)
	author := startIPFS(t)
	l := &library{server: s, net: d, dir: directory(t, 40)}
	l.root = author.must("add", "-r", "-Q", "--pin=false", "--cid-version=1", l.dir)
	l.id = s.api().add(pin{CID: l.root, Origins: author.addresses()}).ID
	s.api().stored(l.id, patience)
	author.stop()
	return l
}

// comesBack reads every file of the library through the gateway and compares it, byte for byte.
func (l *library) comesBack() (tiers map[string]int) {
	l.t.Helper()
	tiers = map[string]int{}
	err := filepath.WalkDir(l.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		got := l.read("/ipfs/" + l.root + "/" + filepath.ToSlash(name))
		if got.code != http.StatusOK || got.err != nil || !bytes.Equal(got.body, want) {
			return fmt.Errorf("%s: code %d, %d of %d bytes: %.200s: %w", name, got.code, len(got.body), len(want), got.body, cmp.Or(got.err, errOther))
		}
		tiers[got.tier()]++
		return nil
	})
	if err != nil {
		l.t.Fatalf("reading the library back: %v", err)
	}
	return tiers
}

// heals waits until the pin has its hot copy back, and checks that all of it is read from there.
func (l *library) heals() {
	l.t.Helper()
	within(l.t, 2*patience, "the hot copy is back", func() (bool, any) {
		got := l.api().get(l.id)
		return got.Status == "pinned" && got.Info["hot_status"] == "held", got
	})
	if tiers := l.comesBack(); tiers["hot"] == 0 || tiers["cold"] != 0 {
		l.t.Errorf("the pin is held again, and reads come from %v", tiers)
	}
}

func TestEveryByteComesBackAfterTheHotBlocksWereWiped(t *testing.T) {
	l := newLibrary(t)
	if tiers := l.comesBack(); tiers["cold"] != 0 || tiers["hot"] == 0 {
		t.Errorf("what is held is read from %v; want hot", tiers)
	}
	l.stop()
	if err := os.RemoveAll(filepath.Join(l.server.dir, "ipfs")); err != nil {
		t.Fatal(err)
	}
	l.start()
	// The first file of all, before anything can have healed, comes from a provider; whatever the rest comes from, it is right.
	l.comesBack()
	l.heals()
}

func TestEveryByteComesBackAfterHotBlocksWereCorrupted(t *testing.T) {
	l := newLibrary(t, "FROSTPIN_HOT_DATASTORE=flatfs")
	l.stop()
	if n := corrupt(t, filepath.Join(l.server.dir, "ipfs", "blocks")); n < 20 {
		t.Fatalf("only %d blocks were found to corrupt", n)
	}
	l.start()
	if tiers := l.comesBack(); tiers["cold"] == 0 {
		t.Errorf("all blocks on disk are wrong, and reads came from %v", tiers)
	}
	l.heals()
	// Healed is what is on disk: it is read after a restart, with all providers gone.
	l.stop()
	for _, p := range l.net.Providers {
		l.net.misbehave(p.ID, fault{"kind": "offline"})
	}
	l.start()
	if tiers := l.comesBack(); tiers["cold"] != 0 {
		t.Errorf("after healing reads came from %v", tiers)
	}
}

// corrupt flips a bit of every block in a store of files, and returns how many there were.
func corrupt(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".data" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) < 100 {
			return err
		}
		data[len(data)/2] ^= 1
		n++
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		t.Fatalf("corrupting blocks: %v", err)
	}
	return n
}

// The node that keeps the blocks may be away altogether: what was proven cold is read all the same.
func TestEveryByteComesBackWhileTheNodeIsStopped(t *testing.T) {
	daemon := startIPFS(t)
	l := newLibrary(t, "FROSTPIN_HOT=remote", "FROSTPIN_HOT_URL="+daemon.rpc)
	if tiers := l.comesBack(); tiers["hot"] == 0 {
		t.Errorf("what the daemon holds is read from %v; want hot", tiers)
	}
	daemon.stop()
	<-time.After(1100 * time.Millisecond) // what was just read is given to others for a second
	if tiers := l.comesBack(); tiers["cold"] == 0 || tiers["hot"] != 0 {
		t.Errorf("with the node stopped reads came from %v", tiers)
	}
	daemon.start()
	l.heals()
}

// Each kind of faulty provider, one after the other, beside one honest copy: the bytes are right each time.
func TestReadsAreRightWhileOneHonestCopyLives(t *testing.T) {
	l := newLibrary(t)
	got := l.api().get(l.id)
	var holders []string
	for _, p := range l.net.Providers {
		if strings.Contains(got.Info["deals"], `"`+p.ID+`"`) {
			holders = append(holders, p.ID)
		}
	}
	if len(holders) != 2 {
		t.Fatalf("the copies are with %v: %s", holders, got.Info["deals"])
	}
	kinds := []string{"retrieve_wrong", "retrieve_endless", "retrieve_stale", "vanish"} // the others with FROSTPIN_E2E_LONG=1
	if long() {
		kinds = []string{
			"retrieve_wrong", "retrieve_other_block", "retrieve_extra", "retrieve_endless", "retrieve_truncate", "retrieve_short", "retrieve_html",
			"retrieve_drip", "retrieve_redirect", "retrieve_wrong_piece", "retrieve_429", "retrieve_stale", "retrieve_mid_block", "retrieve_404",
			"retrieve_5xx", "retrieve_stall", "retrieve_pieces_only", "vanish",
		}
	}
	for _, kind := range kinds {
		t.Logf("%s is %s now", holders[0], kind)
		l.stop()
		if err := os.RemoveAll(filepath.Join(l.server.dir, "ipfs")); err != nil {
			t.Fatal(err)
		}
		l.net.misbehave(holders[0], fault{"kind": kind})
		l.start()
		l.comesBack()
		l.net.misbehave(holders[0])
		l.heals()
		holders[0], holders[1] = holders[1], holders[0]
	}
}

// A restore goes on where it was after the server was killed, as often as that happens.
func TestRestoreSurvivesBeingKilled(t *testing.T) {
	l := newLibrary(t)
	l.stop()
	if err := os.RemoveAll(filepath.Join(l.server.dir, "ipfs")); err != nil {
		t.Fatal(err)
	}
	for _, p := range l.net.Providers {
		l.net.misbehave(p.ID, fault{"kind": "retrieve_delay", "delay": "20ms"})
	}
	for i := range 5 {
		l.start()
		<-time.After(time.Duration(50*(i+1)) * time.Millisecond)
		l.proc.kill()
	}
	l.start()
	l.heals()
}

// What is uploaded is pinned under the CID that stock ipfs gives it, and comes back as it went in.
func TestUploadIsPinnedUnderTheCIDThatIPFSGivesIt(t *testing.T) {
	s := startServer(t)
	author := startIPFS(t)
	text := noise(1_500_000)
	root := author.addText(string(text), "--cid-version=1")
	var got struct {
		Pins []pinStatus `json:"pins"`
	}
	upload := func(contentType string, body []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.root+"/api/v1/upload?name=uploaded", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Content-Type", contentType)
		client := &http.Client{Timeout: patience}
		defer client.CloseIdleConnections()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusAccepted {
			t.Fatalf("uploading %s: %d %s %v", contentType, resp.StatusCode, answer, err)
		}
		if err := json.Unmarshal(answer, &got); err != nil || len(got.Pins) != 1 {
			t.Fatalf("uploading %s: %s %v", contentType, answer, err)
		}
	}
	upload("application/octet-stream", text)
	if got.Pins[0].Pin.CID != root || got.Pins[0].Pin.Name != "uploaded" {
		t.Errorf("a file became %+v; ipfs says %s", got.Pins[0].Pin, root)
	}
	s.api().ends(got.Pins[0].ID, "pinned")
	if read := s.read("/ipfs/" + root); !bytes.Equal(read.body, text) || read.tier() != "hot" {
		t.Errorf("read back: code %d, %d bytes, %s", read.code, len(read.body), read.tier())
	}
	dir := author.must("add", "-r", "-Q", "--pin=false", "--cid-version=1", directory(t, 30))
	car := author.run("dag", "export", dir)
	upload("application/vnd.ipld.car", []byte(car.stdout))
	if got.Pins[0].Pin.CID != dir {
		t.Errorf("a CAR became %+v; want %s", got.Pins[0].Pin, dir)
	}
	s.api().ends(got.Pins[0].ID, "pinned")
	if read := s.read("/ipfs/" + dir + "?format=car"); string(read.body) != car.stdout {
		t.Errorf("the CAR came back with %d bytes; it went in with %d", len(read.body), len(car.stdout))
	}
}
