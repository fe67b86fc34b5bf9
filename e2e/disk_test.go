//go:build linux

package e2e_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"golang.org/x/sys/unix"
)

// A smallDisk is a file system that a test can fill.
type smallDisk struct {
	t      *testing.T
	dir    string
	ours   bool     // nobody else writes there, so that it can be filled to the last byte
	marks  []string // settings
	filler []string
}

// newSmallDisk mounts one where that is allowed. Elsewhere the marks are put so close to what is free now that a file of
// the test's own reaches them.
func newSmallDisk(t *testing.T) *smallDisk {
	t.Helper()
	d := &smallDisk{t: t, dir: t.TempDir()}
	if err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", d.dir).Run(); err == nil {
		d.ours = true
		d.marks = []string{"FROSTPIN_DISK_RESERVE=64MiB"} // more than clients write until it is noticed
		t.Cleanup(func() {
			if err := exec.Command("umount", d.dir).Run(); err != nil {
				t.Errorf("unmounting: %v", err)
			}
		})
		return d
	}
	d.marks = []string{
		"FROSTPIN_DISK_WATERMARK=100",
		fmt.Sprintf("FROSTPIN_DISK_RESERVE=%d", d.free()-1<<30),
	}
	return d
}

func (d *smallDisk) free() int64 {
	d.t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		d.t.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize
}

// take uses space step by step until no more than so much is free.
func (d *smallDisk) take(step, leave int64) {
	d.t.Helper()
	for d.free() > leave {
		name := filepath.Join(d.dir, fmt.Sprintf("filler-%d", len(d.filler)))
		f, err := os.Create(name)
		if err != nil {
			d.t.Fatal(err)
		}
		d.filler = append(d.filler, name)
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, min(step, d.free()-leave/2)), f.Close())
		if errors.Is(err, unix.ENOSPC) {
			return // others were faster
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// takeAll leaves nothing, however often somebody gives some back meanwhile.
func (d *smallDisk) takeAll() {
	d.t.Helper()
	name := filepath.Join(d.dir, fmt.Sprintf("filler-%d", len(d.filler)))
	d.filler = append(d.filler, name)
	f, err := os.Create(name)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(page)
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) clear() {
	d.t.Helper()
	for _, name := range d.filler {
		if err := os.Remove(name); err != nil {
			d.t.Error(err)
		}
	}
	d.filler = nil
}

// uploaded sends bytes and returns the root that they were pinned under; empty when they were refused.
func (s *server) uploaded(content []byte) (root string, code int, body string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.root+"/api/v1/upload", bytes.NewReader(content))
	if err != nil {
		s.t.Error(err)
		return "", 0, ""
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := http.DefaultClient.Do(r) // without a time-out: on a full disk an answer may take as long as it is full
	if err != nil {
		return "", 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err.Error()
	}
	code, body = resp.StatusCode, string(text)
	if _, rest, ok := strings.Cut(body, `"cid":"`); ok && code == http.StatusAccepted {
		root, _, _ = strings.Cut(rest, `"`)
	}
	return root, code, body
}

func TestFullDiskRefusesWritesLosesNothingAndRecoversByItself(t *testing.T) {
	d := newSmallDisk(t)
	s := newServer(t, "private", d.marks...)
	s.dir = filepath.Join(d.dir, "data")
	s.start()
	a := s.api()

	var mu sync.Mutex
	kept := map[string][]byte{} // what was acknowledged
	upload := func() (code int, body string) {
		content := noise(100_000)
		root, code, body := s.uploaded(content)
		if root != "" {
			mu.Lock()
			defer mu.Unlock()
			kept[root] = content
		}
		return code, body
	}
	refused := func(code int, body string) bool {
		return code == http.StatusServiceUnavailable && strings.Contains(body, "INSUFFICIENT_STORAGE")
	}
	if code, body := upload(); code != http.StatusAccepted {
		t.Fatalf("%d %s", code, body)
	}
	gone := a.add(pin{CID: unfindable()})

	for _, whole := range []bool{false, true} {
		if whole && !d.ours {
			break
		}
		// Clients go on while the disk fills.
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for range 3 {
			clients.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if code, body := upload(); code != http.StatusAccepted && !refused(code, body) {
						t.Errorf("%d %s", code, body)
						return
					}
				}
			})
		}
		if whole {
			d.takeAll()
		} else if d.ours {
			d.take(16<<20, 60<<20)
		} else {
			d.take(256<<20, d.free()-3<<29)
		}
		eventually(t, "uploads are refused", func() (bool, any) { code, body := upload(); return refused(code, body), body })
		close(stop) // what they have under way may have to wait for room

		if code, body := s.postAs("/pins", pin{CID: unfindable()}); !refused(code, body) {
			t.Errorf("a pin on a full disk: %d %s", code, body)
		}
		eventually(t, "readiness tells of it", func() (bool, any) {
			code, body := s.fetch("/readyz")
			return code == http.StatusOK && strings.Contains(body, `"degraded"`), body
		})
		mu.Lock()
		reads := maps.Clone(kept)
		mu.Unlock()
		for root, content := range reads {
			if code, body := s.fetch("/ipfs/" + root); code != http.StatusOK || body != string(content) {
				t.Fatalf("reading on a full disk: %d", code)
			}
		}
		a.list(nil)
		if !whole {
			a.want(http.StatusAccepted, http.MethodDelete, "/pins/"+gone.ID, nil, nil, nil)
		}
		d.clear()
		clients.Wait()
		within(t, 30*time.Second, "writes are taken again", func() (bool, any) {
			code, body := upload()
			return code == http.StatusAccepted, body
		})
	}

	if _, code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(s.dir, "frostpin.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("the database: %s, %v", verdict, err)
	}
	s.start()
	for root, content := range kept {
		code, body := s.fetch("/ipfs/" + root)
		if code != http.StatusOK || body != string(content) {
			t.Errorf("%s was acknowledged and reads %d after a restart", root, code)
		}
	}
	if total := a.total("pinned"); total < len(kept) {
		t.Errorf("%d pins of %d that were acknowledged", total, len(kept))
	}
	t.Logf("%d uploads were acknowledged; filled to the last byte: %t", len(kept), d.ours)
}
