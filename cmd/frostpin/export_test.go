package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/spec"
)

// filled has three DAGs, one under two names, a pin that is not pinned and one that has its data in its CID.
func filled(t *testing.T) (*model, []cid.Cid) {
	t.Helper()
	m := newModel(t)
	roots := []cid.Cid{m.dag("a", 3), m.dag("b", 40), m.dag("c", 1)}
	for _, root := range roots {
		m.pin(wanted{CID: root.String(), Name: "first", Meta: map[string]string{"k": "v"}}, spec.Pinned)
	}
	row := m.pin(wanted{CID: roots[1].String(), Name: "second"}, spec.Pinned)
	m.receipts[row.ID] = `{"receipt":true}`
	m.pin(wanted{CID: identity(5), Name: "inline"}, spec.Pinned)
	m.pin(wanted{CID: identity(6), Name: "queued"}, spec.Queued)
	return m, roots
}

func exportOf(t *testing.T, m *model) *export {
	t.Helper()
	return &export{api: testAPI(t, m), statuses: allStatuses(), cars: true, now: time.Now, summary: summary{verb: "exported"}}
}

func importOf(t *testing.T, m *model, path string) *importer {
	t.Helper()
	a, err := openArchive(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return &importer{api: testAPI(t, m), archive: a, dags: digests{}, summary: summary{verb: "imported"}}
}

func TestExportOfAnAccountWithoutANameIsRefused(t *testing.T) {
	m, _ := filled(t)
	path := filepath.Join(t.TempDir(), "ann.tar")
	environ := []string{"HOME=" + t.TempDir(), "FROSTPIN_SERVER=" + m.URL, "FROSTPIN_TOKEN=" + modelToken}
	code, stdout, stderr := command(t, environ, "export", path, "--account", "")
	if code == 0 || !strings.Contains(stderr, "--account is empty") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written: %v", err)
	}
}

func TestWhatIsExportedIsImportedElsewhere(t *testing.T) {
	for _, target := range []string{"dir", "file.tar"} {
		t.Run(target, func(t *testing.T) {
			from, roots := filled(t)
			to := newModel(t)
			path := filepath.Join(t.TempDir(), target)
			environ := func(m *model) []string {
				return []string{"HOME=" + t.TempDir(), "FROSTPIN_SERVER=" + m.URL, "FROSTPIN_TOKEN=" + modelToken}
			}
			code, stdout, stderr := command(t, environ(from), "export", path)
			if code != 0 || !strings.Contains(stdout, "6 exported, 0 skipped, 0 failed") {
				t.Fatalf("%d %s %s", code, stdout, stderr)
			}
			code, stdout, stderr = command(t, environ(to), "import", path, "--json")
			if code != 0 || strings.Count(stdout, `{"old":"r0`) != 6 {
				t.Fatalf("%d %s %s", code, stdout, stderr)
			}
			if diff := cmp.Diff(from.names(), to.names()); diff != "" {
				t.Error(diff)
			}
			if len(to.blocks) != len(from.blocks) || len(to.uploads) != len(roots) {
				t.Errorf("%d of %d blocks in %d uploads", len(to.blocks), len(from.blocks), len(to.uploads))
			}
			for _, row := range to.rows {
				if row.Pin.Name == "first" && row.Pin.Meta["k"] != "v" {
					t.Errorf("meta was lost: %v", row)
				}
			}
			code, stdout, stderr = command(t, environ(to), "import", path)
			if code != 0 || !strings.Contains(stdout, "0 imported, 6 skipped, 0 failed") {
				t.Errorf("again: %d %s %s", code, stdout, stderr)
			}
		})
	}
}

func TestExportGoesOnWhereItWasEndedAndLeavesNoHalfFile(t *testing.T) {
	m, roots := filled(t)
	e := exportOf(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	var cars atomic.Int32
	m.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/ipfs/") && cars.Add(1) == 3 {
			cancel()
			<-r.Context().Done() // or this one may have come whole before it is ended
			return true
		}
		return false
	}
	dir := t.TempDir()
	if err := e.toDir(ctx, dir); err == nil {
		t.Fatal("it was not ended")
	}
	if _, err := os.Stat(inside(dir, sumsFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an export that was ended looks finished: %v", err)
	}
	kept := 0
	for _, root := range roots {
		content, err := os.ReadFile(inside(dir, carName(root)))
		if err == nil {
			if err := copyCAR(io.Discard, bytes.NewReader(content), root); err != nil {
				t.Errorf("half a file: %v", err)
			}
			kept++
		}
	}
	cars.Store(10)
	if err := exportOf(t, m).toDir(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if got := int(cars.Load()) - 10; got != len(roots)-kept {
		t.Errorf("%d were there, and it fetched %d of %d", kept, got, len(roots))
	}
	if err := importOf(t, newModel(t), dir).run(t.Context()); err != nil {
		t.Error(err)
	}
	// A file that has been damaged since is fetched again.
	damage(t, inside(dir, carName(roots[1])))
	if err := importOf(t, newModel(t), dir).run(t.Context()); err == nil || !strings.Contains(err.Error(), "not as it was written") {
		t.Errorf("a damaged export: %v", err)
	}
	cars.Store(10)
	if err := exportOf(t, m).toDir(t.Context(), dir); err != nil || cars.Load() != 11 {
		t.Errorf("%v, fetched %d", err, cars.Load()-10)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-2] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExportKeepsNoCARThatIsWrong(t *testing.T) {
	for name, mangle := range map[string]func(n int, b blocks.Block) (blocks.Block, bool){
		"wrong bytes": func(n int, b blocks.Block) (blocks.Block, bool) {
			if n == 5 {
				b, _ = blocks.NewBlockWithCid([]byte("lies"), b.Cid())
			}
			return b, true
		},
		"a block is missing":  func(n int, b blocks.Block) (blocks.Block, bool) { return b, n != 7 },
		"the last is missing": func(n int, b blocks.Block) (blocks.Block, bool) { return b, n != 41 },
		"an extra block": func(n int, b blocks.Block) (blocks.Block, bool) {
			if n == 9 {
				return blocks.NewBlock([]byte("unasked")), true
			}
			return b, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, roots := filled(t)
			n := 0
			m.mangles(func(b blocks.Block) (blocks.Block, bool) { n++; return mangle(n, b) })
			m.rows = m.rows[1:2]
			e, dir := exportOf(t, m), t.TempDir()
			m.intercept = func(http.ResponseWriter, *http.Request) bool { n = 0; return false }
			if err := e.toDir(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			files, _ := filepath.Glob(filepath.Join(dir, "cars", "*"))
			if e.summary.Failed != 1 || len(files) != 0 {
				t.Errorf("%s, files %v", e.summary.line(), files)
			}
			m.mangles(nil)
			if err := exportOf(t, m).toDir(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(inside(dir, carName(roots[1]))); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestExportRetriesAStreamThatIsCut(t *testing.T) {
	m, _ := filled(t)
	var n atomic.Int32
	m.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/ipfs/") || n.Add(1)%2 == 0 {
			return false
		}
		r.Header.Set("Authorization", "Bearer "+modelToken)
		half := &buffered{h: http.Header{}}
		r.SetPathValue("cid", strings.TrimPrefix(r.URL.Path, "/ipfs/"))
		m.car(half, r)
		w.Header().Set("Content-Type", carType)
		_, _ = w.Write(half.Bytes()[:half.Len()-10])
		return true
	}
	e := exportOf(t, m)
	if err := e.toDir(t.Context(), t.TempDir()); err != nil || e.summary.Failed != 0 {
		t.Errorf("%v, %s %v", err, e.summary.line(), e.summary.Failures)
	}
}

type buffered struct {
	bytes.Buffer
	h http.Header
}

func (b *buffered) Header() http.Header { return b.h }
func (b *buffered) WriteHeader(int)     {}

func TestImportGoesOnWhereItWasEnded(t *testing.T) {
	from, _ := filled(t)
	path := filepath.Join(t.TempDir(), "e.tar")
	if err := exportOf(t, from).toTar(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	to := newModel(t)
	runs := 0
	for done := false; !done && runs < 20; runs++ {
		ctx, cancel := context.WithCancel(t.Context())
		var posts atomic.Int32
		to.mu.Lock()
		to.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPost || posts.Add(1) != 2 {
				return false
			}
			cancel()
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		to.mu.Unlock()
		done = importOf(t, to, path).run(ctx) == nil
		cancel()
		<-time.After(10 * time.Millisecond)
	}
	if diff := cmp.Diff(from.names(), to.names()); diff != "" || runs < 2 {
		t.Errorf("%d runs: %s", runs, diff)
	}
}

// tarOf writes a tar file of the entries.
func tarOf(t testing.TB, headers []tar.Header, content map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		h.Size, h.Mode = int64(len(content[h.Name])), 0o600
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHostileTarsAreRefused(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"upwards":  {Name: "../pins.jsonl", Typeflag: tar.TypeReg},
		"deeper":   {Name: "cars/../../x.car", Typeflag: tar.TypeReg},
		"absolute": {Name: "/etc/passwd", Typeflag: tar.TypeReg},
		"symlink":  {Name: "pins.jsonl", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		"hardlink": {Name: "pins.jsonl", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"},
		"device":   {Name: "pins.jsonl", Typeflag: tar.TypeChar},
		"windows":  {Name: `cars\..\x.car`, Typeflag: tar.TypeReg},
	} {
		if _, err := indexTar(bytes.NewReader(tarOf(t, []tar.Header{h}, nil))); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	twice := []tar.Header{{Name: manifestFile, Typeflag: tar.TypeReg}, {Name: "./" + manifestFile, Typeflag: tar.TypeReg}}
	if _, err := indexTar(bytes.NewReader(tarOf(t, twice, nil))); err == nil {
		t.Error("the same name twice was read")
	}
}

func TestImportRefusesWhatHasNoRightSum(t *testing.T) {
	manifest := `{"frostpin-export":1}` + "\n"
	sum := sha256.Sum256([]byte(manifest))
	right := hex.EncodeToString(sum[:]) + "  pins.jsonl\n"
	for name, sums := range map[string]string{
		"right":       right,
		"none":        "",
		"wrong":       strings.Repeat("0", 64) + "  pins.jsonl\n",
		"elsewhere":   right + strings.Repeat("0", 64) + "  ../../etc/passwd\n",
		"not there":   right + strings.Repeat("0", 64) + "  cars/x.car\n",
		"no such sum": "nonsense\n",
	} {
		dir := t.TempDir()
		for file, content := range map[string]string{manifestFile: manifest, sumsFile: sums} {
			if err := os.WriteFile(inside(dir, file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := importOf(t, newModel(t), dir).run(t.Context()); (err == nil) != (name == "right") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImportRefusesACAROfSomethingElse(t *testing.T) {
	from, roots := filled(t)
	dir := t.TempDir()
	if err := exportOf(t, from).toDir(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(inside(dir, carName(roots[0])))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(inside(dir, carName(roots[2])), content, 0o600); err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(inside(dir, sumsFile))
	var sums strings.Builder
	for line, err := range readSums(bytes.NewReader(old)) {
		if err != nil {
			t.Fatal(err)
		}
		sum, err := sumFile(inside(dir, line.name))
		if err != nil {
			t.Fatal(err)
		}
		sums.WriteString(sum + "  " + line.name + "\n")
	}
	if err := os.WriteFile(inside(dir, sumsFile), []byte(sums.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	to := newModel(t)
	i := importOf(t, to, dir)
	if err := i.run(t.Context()); err != nil || i.summary.Failed != 1 || !strings.Contains(i.summary.Failures[0].Reason, "something else") {
		t.Errorf("%v, %s %v", err, i.summary.line(), i.summary.Failures)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"frostpin-export":1}` + "\n" + `{"requestid":"a","status":"pinned","created":"2026-01-01T00:00:00.000Z","pin":{"cid":"bafkqaaa","meta":{"a":1}},"delegates":null}`))
	f.Add([]byte(`{"frostpin-export":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for row, err := range readManifest(bytes.NewReader(data)) {
			if err == nil && (!filepath.IsLocal(receiptName(row.ID)) || strings.Contains(row.ID, "/") || row.Pin.CID == "") {
				t.Fatalf("took %+v", row)
			}
		}
	})
}

func FuzzTar(f *testing.F) {
	headers := []tar.Header{{Name: sumsFile, Typeflag: tar.TypeReg}, {Name: manifestFile, Typeflag: tar.TypeReg}, {Name: "cars/x.car", Typeflag: tar.TypeReg}}
	f.Add(tarOf(f, headers, map[string]string{manifestFile: "text", "cars/x.car": "more"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := indexTar(bytes.NewReader(data))
		if err != nil {
			return
		}
		for name := range a.entries {
			if !filepath.IsLocal(name) || !known(name) {
				t.Fatalf("took %q", name)
			}
			file, size, err := a.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if n, _ := io.Copy(io.Discard, file); n > size || n > int64(len(data)) {
				t.Fatalf("%q has %d bytes of %d", name, n, size)
			}
		}
	})
}

func TestExportRemovesNothingOfOthers(t *testing.T) {
	m, _ := filled(t)
	dir := t.TempDir()
	note := filepath.Join(dir, "e.tar.d", "note")
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		t.Fatal(err)
	}
	sums := filepath.Join(dir, sumsFile)
	for _, name := range []string{note, sums} {
		if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := exportOf(t, m).toTar(t.Context(), filepath.Join(dir, "e.tar")); err == nil {
		t.Error("it exports into somebody's directory")
	}
	if err := exportOf(t, m).toDir(t.Context(), dir); err == nil {
		t.Error("it exports over somebody's sums")
	}
	for _, name := range []string{note, sums} {
		if content, err := os.ReadFile(name); err != nil || string(content) != "mine" {
			t.Errorf("%s: %q, %v", name, content, err)
		}
	}
}

func TestImportTellsOfFailedPinsWhoseDataItHas(t *testing.T) {
	from, roots := filled(t)
	dir := t.TempDir()
	if err := exportOf(t, from).toDir(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	to := newModel(t)
	to.pin(wanted{CID: roots[0].String(), Name: "first"}, spec.Failed)
	to.pin(wanted{CID: roots[1].String(), Name: "first"}, spec.Failed) // and was made again
	to.pin(wanted{CID: roots[1].String(), Name: "first"}, spec.Pinned)
	to.pin(wanted{CID: roots[2].String(), Name: "first"}, spec.Queued)
	to.pin(wanted{CID: identity(6), Name: "queued"}, spec.Failed)
	i := importOf(t, to, dir)
	if err := i.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := &i.summary; s.Done != 2 || s.Skipped != 3 || s.Failed != 1 || s.Failures[0].CID != roots[0].String() {
		t.Errorf("%s: %v", s.line(), s.Failures)
	}
}

func TestOnePinThatIsTooLargeForAPlanKeepsNoOtherFromBeingCopied(t *testing.T) {
	from, to := newModel(t), newModel(t)
	for i := range 40 {
		from.pin(wanted{CID: identity(i)}, spec.Pinned)
	}
	var posts atomic.Int32
	to.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || posts.Add(1) != 3 {
			return false
		}
		refuse(w, http.StatusForbidden, spec.ReasonQuotaExceeded)
		return true
	}
	m := mirrorOf(t, from, to)
	if err := m.run(t.Context(), []spec.Status{spec.Pinned}); err != nil || m.summary.Done != 39 || m.summary.Failed != 1 {
		t.Errorf("%s, %v", m.summary.line(), err)
	}
}

func TestAFullAccountIsNotAskedForEachPin(t *testing.T) {
	from, to := newModel(t), newModel(t)
	for i := range 500 {
		from.pin(wanted{CID: identity(i)}, spec.Pinned)
	}
	var posts atomic.Int32
	to.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		posts.Add(1)
		refuse(w, http.StatusForbidden, spec.ReasonQuotaExceeded)
		return true
	}
	err := mirrorOf(t, from, to).run(t.Context(), []spec.Status{spec.Pinned})
	if n := posts.Load(); err == nil || n > 2*maxRefused {
		t.Errorf("%d pins were asked for, %v", n, err)
	}
}
