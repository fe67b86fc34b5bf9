package disk_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/frostpin/frostpin/cmd/disk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gib = 1 << 30

// disks are file systems of a test's own making, by directory.
type disks struct {
	mu sync.Mutex
	of map[string]disk.Space
}

func (d *disks) statfs(dir string) (disk.Space, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, space := range d.of {
		if strings.HasSuffix(dir, name) {
			return space, nil
		}
	}
	return disk.Space{}, errors.New("it does not answer")
}

func (d *disks) free(dir string, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.of[dir]
	s.Free = bytes
	d.of[dir] = s
}

func TestMarksAreWhereTheSettingsPutThem(t *testing.T) {
	for _, c := range []struct {
		name        string
		total, free int64
		reserve     int64
		watermark   int
		want        disk.Level
	}{
		{"a large disk with room", 10_000 * gib, 60 * gib, 0, 0, disk.Roomy},
		{"a large disk keeps 50 GiB", 10_000 * gib, 49 * gib, 0, 0, disk.Scarce},
		{"and 5 GiB for itself", 10_000 * gib, 4 * gib, 0, 0, disk.Full},
		{"what is set is taken literally", 10_000 * gib, 900 * gib, 0, 90, disk.Scarce},
		{"a middling disk", 100 * gib, 11 * gib, 0, 0, disk.Roomy},
		{"at ninety percent", 100 * gib, 10 * gib, 0, 0, disk.Scarce},
		{"a small disk reserves a twentieth", gib, gib / 15, 0, 0, disk.Scarce},
		{"and no more", gib, gib / 21, 0, 0, disk.Full},
		{"a reserve above the watermark", 100 * gib, 19 * gib, 20 * gib, 90, disk.Full},
		{"nothing left", 100 * gib, 0, 0, 0, disk.Full},
	} {
		d := &disks{of: map[string]disk.Space{"": {Device: "1", Total: c.total, Free: c.free}}}
		g := disk.New(disk.Config{Dirs: []string{t.TempDir()}, Reserve: c.reserve, Watermark: c.watermark, Statfs: d.statfs}, slog.New(slog.DiscardHandler))
		if got := g.Level(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if err := g.Check(t.Context()); (err == nil) != (c.want == disk.Roomy) {
			t.Errorf("%s: the check says %v", c.name, err)
		}
	}
}

func TestTheFullestFileSystemCountsAndRoomIsNoticedByItself(t *testing.T) {
	root := t.TempDir()
	dirs := []string{filepath.Join(root, "data"), filepath.Join(root, "ipfs")}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		d := &disks{of: map[string]disk.Space{
			"/data": {Device: "1", Total: 1000 * gib, Free: 500 * gib}, "/ipfs": {Device: "2", Total: 1000 * gib, Free: 500 * gib},
		}}
		g := disk.New(disk.Config{Dirs: dirs, Statfs: d.statfs}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		for _, step := range []struct {
			free int64
			want disk.Level
		}{
			{40 * gib, disk.Scarce},
			{4 * gib, disk.Full},
			{5*gib + 1, disk.Full}, // a little more than the mark is not enough to go on
			{6 * gib, disk.Scarce},
			{50*gib + 1, disk.Scarce},
			{60 * gib, disk.Roomy},
		} {
			d.free("/data", step.free)
			<-time.After(2 * time.Second)
			synctest.Wait()
			if got := g.Level(); got != step.want {
				t.Errorf("%d GiB are free: %s, want %s", step.free/gib, got, step.want)
			}
		}
		stop()
		<-ended
	})
}

func TestAFileSystemThatCannotBeSeenStopsNothing(t *testing.T) {
	d := &disks{of: map[string]disk.Space{"": {Device: "1", Total: 1000 * gib, Free: 500 * gib}}}
	g := disk.New(disk.Config{Dirs: []string{t.TempDir()}, Statfs: d.statfs}, slog.New(slog.DiscardHandler))
	d.of = nil
	g.Look()
	if g.Level() != disk.Roomy || g.Check(t.Context()) != nil {
		t.Errorf("%s, %v", g.Level(), g.Check(t.Context()))
	}
}

func TestRealFileSystemsAndMetrics(t *testing.T) {
	dir := t.TempDir()
	space, err := disk.Statfs(dir)
	if errors.Is(err, errors.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip("not on this system")
	}
	if err != nil || space.Free <= 0 || space.Total < space.Free || space.Device == "" {
		t.Fatalf("%+v, %v", space, err)
	}
	g := disk.New(disk.Config{Dirs: []string{dir, filepath.Join(dir, "not", "yet")}, Reserve: 1 << 60}, slog.New(slog.DiscardHandler))
	if g.Level() != disk.Full {
		t.Errorf("%s below a reserve that no disk has", g.Level())
	}
	r := prometheus.NewRegistry()
	for _, c := range g.Collectors() {
		r.MustRegister(c)
	}
	if n, err := testutil.GatherAndCount(r, "frostpin_disk_free_bytes"); n != 1 || err != nil {
		t.Errorf("%d, %v: one file system is one figure", n, err)
	}
	if problems, err := testutil.GatherAndLint(r); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}
