package e2e_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A sent upload is one key with its data. The pin of it is named like the key.
type sent struct {
	key  string
	kind string
	body []byte            // nil once it was acknowledged
	sum  [sha256.Size]byte // of the file that must be read back
	path string            // of that file, below the root
	pin  pinStatus
}

// An uploader sends one upload after the other.
type uploader struct {
	s    *server
	name string
	rng  *rand.Rand
	n    int

	acknowledged []sent
	pending      *sent // its answer never came
}

func (u *uploader) next() sent {
	u.n++
	text := noise(1 + u.rng.IntN(900_000))
	up := sent{key: fmt.Sprintf("%s-%d", u.name, u.n), kind: "application/octet-stream", body: text, sum: sha256.Sum256(text)}
	if u.n%3 == 0 {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, data := range map[string][]byte{"d/file": text, "d/other": noise(300)} {
			_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(data))})
			_, _ = w.Write(data) // a buffer takes everything
		}
		_ = w.Close()
		up.kind, up.body, up.path = "application/x-tar", b.Bytes(), "/file"
	}
	return up
}

// send sends an upload; an error means that the server gave no answer.
func (u *uploader) send(up sent) (sent, error) {
	req, err := http.NewRequestWithContext(u.s.t.Context(), http.MethodPost, u.s.root+"/api/v1/upload?name="+up.key, bytes.NewReader(up.body))
	if err != nil {
		return up, err
	}
	req.Header.Set("Authorization", "Bearer "+u.s.token)
	req.Header.Set("Content-Type", up.kind)
	req.Header.Set("Idempotency-Key", up.key)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return up, err
	}
	defer resp.Body.Close()
	var answer struct {
		Pins []pinStatus `json:"pins"`
	}
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK {
		u.s.t.Errorf("upload %s is answered %s", up.key, resp.Status)
		return up, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return up, err
	}
	if len(answer.Pins) != 1 {
		u.s.t.Errorf("upload %s has made %d pins", up.key, len(answer.Pins))
		return up, nil
	}
	up.pin, up.body = answer.Pins[0], nil
	return up, nil
}

// run works until the server dies.
func (u *uploader) run() {
	for !u.s.t.Failed() {
		up := u.next()
		got, err := u.send(up)
		if err != nil {
			u.pending = &up
			return
		}
		u.acknowledged = append(u.acknowledged, got)
	}
}

// repeat sends what was not acknowledged again.
func (u *uploader) repeat() {
	if u.pending == nil {
		return
	}
	got, err := u.send(*u.pending)
	if err != nil {
		u.s.t.Fatalf("repeating %s: %v", u.pending.key, err)
	}
	u.acknowledged = append(u.acknowledged, got)
	u.pending = nil
}

// check compares the uploads from the first one on with what the server has.
func (u *uploader) check(shown map[string][]pinStatus, first int) {
	for _, up := range u.acknowledged[first:] {
		pins := shown[up.key]
		if len(pins) != 1 || pins[0].ID != up.pin.ID || pins[0].Status != "pinned" || pins[0].Pin.CID != up.pin.Pin.CID {
			u.s.t.Errorf("upload %s was acknowledged as %s %s; the server has %+v", up.key, up.pin.ID, up.pin.Pin.CID, pins)
			continue
		}
		if got := u.s.read("/ipfs/" + up.pin.Pin.CID + up.path); got.code != http.StatusOK || sha256.Sum256(got.body) != up.sum {
			u.s.t.Errorf("upload %s is read back with code %d and %d bytes, which are others", up.key, got.code, len(got.body))
		}
	}
}

// byName are all pins of the first token's account.
func byName(s *server) map[string][]pinStatus {
	s.t.Helper()
	names := map[string][]pinStatus{}
	for _, p := range s.api().all() {
		names[p.Pin.Name] = append(names[p.Pin.Name], p)
	}
	return names
}

// Uploads are sent as fast as they are answered while the server is killed at random moments. What was acknowledged is
// a pin that is pinned and read back byte for byte; what was not can be repeated, and then it is one pin too.
func TestKilledServerKeepsEveryAcknowledgedUpload(t *testing.T) {
	t.Parallel() // it waits for restarts most of the time
	cycles := count(t, "FROSTPIN_KILL_CYCLES", 6)
	s := startServer(t)
	seed := rand.Uint64()
	t.Logf("seed %d, %d cycles", seed, cycles)
	var uploaders []*uploader
	for i := range 4 {
		uploaders = append(uploaders, &uploader{s: s, name: string(rune('a' + i)), rng: rand.New(rand.NewPCG(seed, uint64(i)))})
	}
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	unanswered := 0
	for cycle := range cycles {
		before := make([]int, len(uploaders))
		var group sync.WaitGroup
		for i, u := range uploaders {
			before[i] = len(u.acknowledged)
			group.Go(u.run)
		}
		<-time.After(time.Duration(50+rng.IntN(800)) * time.Millisecond)
		s.proc.kill()
		group.Wait()
		s.start()
		shown := byName(s) // what was acknowledged is there before anything is repeated
		for i, u := range uploaders {
			u.check(shown, before[i])
			if u.pending != nil {
				unanswered++
			}
			before[i] = len(u.acknowledged)
			u.repeat()
		}
		shown = byName(s)
		for i, u := range uploaders {
			u.check(shown, before[i])
		}
		if t.Failed() {
			t.Fatalf("in cycle %d of %d", cycle+1, cycles)
		}
	}
	total, shown := 0, byName(s)
	for _, u := range uploaders {
		total += len(u.acknowledged)
		u.check(shown, 0)
	}
	if len(shown) != total || unanswered == 0 {
		t.Errorf("%d names of pins for %d uploads; %d were without an answer", len(shown), total, unanswered)
	}
	t.Logf("%d uploads, %d of them repeated", total, unanswered)
}
