package hot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/frostpin/frostpin/pins"
	"github.com/frostpin/frostpin/pins/hot"
	"github.com/frostpin/frostpin/pins/ingest"
	"github.com/frostpin/frostpin/spec"
)

// recorder records pins without keeping them.
type recorder struct{}

func (recorder) Refuse(cid.Cid) error { return nil }

func (recorder) Decide(context.Context, pins.Choice, map[string]string) (pins.Decision, error) {
	return pins.Decision{Terms: pins.Uncopied}, nil
}

func (recorder) AddUploaded(_ context.Context, a pins.Account, r spec.Request, decided pins.Decision, _ pins.Upload) (pins.Pin, error) {
	return pins.Pin{Account: a, Request: r, Terms: decided.Terms}, nil
}

func (recorder) BeginUpload(context.Context, pins.Account, string) (bool, error) { return true, nil }

func (recorder) EndUpload(context.Context, pins.Account, string) {}

func (recorder) Leftovers() {}

func (recorder) BeginHold(context.Context, []cid.Cid) (string, error) { return "", nil }

func (recorder) EndHold(string) {}

func (recorder) Uploaded(context.Context, pins.Account, string) ([]pins.Pin, int, error) {
	return nil, 0, nil
}

// What comes as a file, a tar or a form must have the CID that everybody else gives it.
func TestUploadGetsTheCIDOfKubosAdd(t *testing.T) {
	daemon := startDaemon(t)
	tiers := map[string]ingest.Tier{
		"embedded": openEmbedded(t, hot.Config{}),
		"remote":   openRemote(t, hot.RemoteConfig{URL: daemon.url()}),
	}
	noise := rand.NewChaCha8([32]byte{1})
	random := func(n int) []byte {
		b := make([]byte, n)
		if _, err := noise.Read(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	type entry struct {
		path string
		data []byte // nil for a directory
		link string
	}
	wide := []entry{{path: "wide"}}
	for i := range 5000 { // above the size at which directories become HAMTs
		wide = append(wide, entry{path: fmt.Sprintf("wide/%05d a rather long name", i), data: []byte{byte(i)}})
	}
	for _, c := range []struct {
		name    string
		entries []entry
	}{
		{"empty", []entry{{path: "f", data: []byte{}}}},
		{"small", []entry{{path: "f", data: []byte("hello")}}},
		{"one chunk", []entry{{path: "f", data: random(256 << 10)}}},
		{"two chunks", []entry{{path: "f", data: random(256<<10 + 1)}}},
		{"two levels", []entry{{path: "f", data: random(175 * 256 << 10)}}},
		{"empty directory", []entry{{path: "d"}}},
		{"nested", []entry{
			{path: "d"},
			{path: "d/a", data: []byte("a")},
			{path: "d/e"},
			{path: "d/e/ü b+c", data: random(300 << 10)},
			{path: "d/link", link: "../elsewhere"},
			{path: "d/none"},
		}},
		{"wide", wide},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var asTar, asForm bytes.Buffer
			tw, form := tar.NewWriter(&asTar), multipart.NewWriter(&asForm)
			part := func(path, kind string) io.Writer {
				w, err := form.CreatePart(textproto.MIMEHeader{
					"Content-Disposition": {`form-data; name="file"; filename="` + url.QueryEscape(path) + `"`}, "Content-Type": {kind},
				})
				if err != nil {
					t.Fatal(err)
				}
				return w
			}
			must := func(_ int, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range c.entries {
				file := filepath.Join(dir, e.path)
				switch {
				case e.link != "":
					must(0, os.Symlink(e.link, file))
					must(0, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: e.path, Linkname: e.link}))
					must(io.WriteString(part(e.path, "application/symlink"), e.link))
				case e.data == nil:
					must(0, os.Mkdir(file, 0o755))
					must(0, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + e.path + "/", Mode: 0o755}))
					part(e.path, "application/x-directory")
				default:
					must(0, os.WriteFile(file, e.data, 0o600))
					must(0, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + e.path, Size: int64(len(e.data)), Mode: 0o600}))
					must(tw.Write(e.data))
					must(part(e.path, "application/octet-stream").Write(e.data))
				}
			}
			must(0, tw.Close())
			must(0, form.Close())
			top := c.entries[0]
			out, err := daemon.command("add", "-r", "-Q", "--only-hash", "--cid-version=1", filepath.Join(dir, top.path)).Output()
			if err != nil {
				t.Fatal(err)
			}
			want := strings.TrimSpace(string(out))
			for name, tier := range tiers {
				if name == "remote" && c.name == "two levels" {
					continue // the same blocks, over a slow way
				}
				service := ingest.New(tier, recorder{}, pins.Limits{BlockSize: 4 << 20})
				uploads := map[string]ingest.Upload{
					"tar":  {Format: ingest.Tar, Body: bytes.NewReader(asTar.Bytes())},
					"form": {Format: ingest.Multipart, Body: bytes.NewReader(asForm.Bytes()), Boundary: form.Boundary()},
				}
				if top.data != nil {
					uploads["file"] = ingest.Upload{Body: bytes.NewReader(top.data)}
				}
				for kind, u := range uploads {
					made, _, err := service.Upload(t.Context(), u)
					if err != nil || len(made) != 1 || made[0].CID != want {
						t.Errorf("%s, %s: %v, %v; want %s", name, kind, made, err, want)
						continue
					}
					root := cid.MustParse(want)
					if held, err := tier.(pins.HotTier).Held(t.Context(), root); err != nil || !held {
						t.Errorf("%s, %s: held %t, %v", name, kind, held, err)
					}
				}
			}
		})
	}
}
