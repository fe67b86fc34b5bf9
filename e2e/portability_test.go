package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// same compares two trees as a stranger would, links and empty directories included.
func same(t *testing.T, want, got string) {
	t.Helper()
	r := finish(t, exec.CommandContext(t.Context(), "diff", "--recursive", "--no-dereference", "--brief", want, got), patience)
	if r.code != 0 {
		t.Errorf("%s is not %s:\n%s%s", got, want, r.stdout, r.stderr)
	}
}

// What frostpin add sends is pinned under the CID that stock ipfs gives it, and frostpin get writes it as it was.
func TestWhatIsAddedIsWhatIPFSAddsAndComesBackAsItWas(t *testing.T) {
	s := startServer(t)
	s.env = append(s.env, "FROSTPIN_TOKEN="+s.token)
	author := newIPFS(t)
	tree := directory(t, 30)
	for name, text := range map[string]string{"empty": "", ".hidden": "x", ".d/file": "y", "d1/ü and space+%41": "z", "d1/large": string(noise(700_000))} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "d1/large", "away": "/etc", "dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tree, "nothing"), 0o750); err != nil {
		t.Fatal(err)
	}
	for path, flags := range map[string][]string{
		tree:                                      {"--hidden"},
		tree + "/":                                nil,
		filepath.Join(tree, "d1"):                 nil,
		filepath.Join(tree, "large"):              nil,
		filepath.Join(tree, "empty"):              nil,
		filepath.Join(tree, "nothing"):            nil,
		filepath.Join(tree, "link"):               nil,
		filepath.Join(tree, "d1/ü and space+%41"): nil,
	} {
		want := author.must(append([]string{"add", "-r", "-Q", "--pin=false", "--cid-version=1", path}, flags...)...)
		root := s.must(append([]string{"add", "--quiet", path}, flags...)...)
		if root != want {
			t.Errorf("%s is pinned as %s; ipfs adds it as %s", path, root, want)
			continue
		}
		out := filepath.Join(t.TempDir(), "out")
		s.must("get", root, "-o", out)
		if path == tree+"/" {
			for _, name := range []string{".hidden", ".d"} {
				if _, err := os.Lstat(filepath.Join(out, name)); err == nil {
					t.Errorf("%s was added although it is hidden", name)
				}
			}
			continue
		}
		same(t, path, out)
	}
	whole := author.must("add", "-r", "-Q", "--pin=false", "--cid-version=1", "--hidden", tree)
	car := filepath.Join(t.TempDir(), "whole.car")
	s.must("get", whole, "--car", "-o", car)
	author.must("dag", "import", "--pin-roots=false", car)
	out := filepath.Join(t.TempDir(), "out")
	author.must("get", whole, "-o", out)
	same(t, tree, out)
	s.must("get", "ipfs://"+whole+"/d1/", "-o", out+"2")
	same(t, filepath.Join(tree, "d1"), out+"2")
}

// A directory of very many names is sharded, and its parts are found all the same.
func TestShardedDirectoryIsAddedAndReadInParts(t *testing.T) {
	s := startServer(t)
	s.env = append(s.env, "FROSTPIN_TOKEN="+s.token)
	tree := t.TempDir()
	name := func(i int) string { return strings.Repeat("x", 200) + strconv.Itoa(i) }
	for i := range 1200 {
		if err := os.WriteFile(filepath.Join(tree, name(i)), []byte(strconv.Itoa(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := s.must("add", "-q", tree)
	if want := newIPFS(t).must("add", "-r", "-Q", "--only-hash", "--cid-version=1", tree); root != want {
		t.Errorf("it is pinned as %s; ipfs adds it as %s", root, want)
	}
	out := filepath.Join(t.TempDir(), "out")
	s.must("get", root, "-o", out)
	same(t, tree, out)
	s.must("get", root+"/"+name(777), "-o", out+"2")
	same(t, filepath.Join(tree, name(777)), out+"2")
}

// An export has the data of what was uploaded, and an import brings it to a server that could not fetch it.
func TestExportAndImportMoveData(t *testing.T) {
	from, to := startServer(t), startServer(t)
	path := filepath.Join(directory(t, 5), "large")
	from.env = append(from.env, "FROSTPIN_TOKEN="+from.token)
	root := from.must("add", "-q", path)
	archive := filepath.Join(t.TempDir(), "archive.tar")
	from.must("export", archive)
	from.stop()
	to.env = append(to.env, "FROSTPIN_TOKEN="+to.token)
	if got := to.must("import", archive); !strings.HasPrefix(got, "1 imported, 0 skipped, 0 failed") {
		t.Errorf("import says %s", got)
	}
	out := filepath.Join(t.TempDir(), "out")
	to.must("get", root, "-o", out)
	same(t, path, out)
}
